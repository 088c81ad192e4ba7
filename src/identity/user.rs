//! Names of people.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::name::{NameError, Problem, Subject};

/// The longest name of a user, in bytes.
const MAX_USER: usize = 64;

/// The name of a user: `[a-z0-9][a-z0-9._@-]{0,63}`. Valid once it exists, and cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(Arc<str>);

impl UserName {
    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_alphanumeric = |c: char| matches!(c, 'a'..='z' | '0'..='9');
        let is_wrong = |&(index, c): &(usize, char)| !(is_alphanumeric(c) || index > 0 && "._@-".contains(c));
        let problem = if text.is_empty() {
            Some(Problem::Empty)
        } else if let Some((_, wrong)) = text.char_indices().find(is_wrong) {
            Some(Problem::Character(wrong))
        } else {
            (text.len() > MAX_USER).then_some(Problem::TooLong(MAX_USER))
        };
        problem.map_or_else(|| Ok(Self(text.into())), |problem| Err(NameError::new(Subject::User, text, problem)))
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_user_is_named_as_in_a_mail_address() {
        for text in ["alice", "0", "alice.b@example.com", "a-", &"u".repeat(64)] {
            assert_eq!(text.parse::<UserName>().expect(text).as_str(), text);
        }
        let problem = |text: &str| text.parse::<UserName>().expect_err(text).problem;
        assert_eq!((problem(""), problem(&"u".repeat(65))), (Problem::Empty, Problem::TooLong(64)));
        for (text, wrong) in [("@alice", '@'), ("Alice", 'A'), ("a b", ' '), ("a\u{202e}", '\u{202e}')] {
            assert_eq!(problem(text), Problem::Character(wrong));
        }
        let error = ".alice".parse::<UserName>().expect_err("a dot first").to_string();
        assert!(error.starts_with("user name '.alice' has '.' where that is not allowed; write 1 to 64"), "{error}");
    }

    proptest! {
        #[test]
        fn what_the_grammar_makes_is_a_user(text in "[a-z0-9][a-z0-9._@-]{0,63}") {
            prop_assert_eq!(text.parse::<UserName>().expect("a name").to_string(), text);
        }
    }
}
