//! What an operator says of a device.

use std::fmt;
use std::str::FromStr;

use super::name::{NameError, Problem, Subject};

/// The longest key of a label, and the longest value, in bytes.
const MAX_PART: usize = 63;

/// A label, `key=value`, each of `[a-z0-9._-]{1,63}`. Valid once it exists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    text: Box<str>,
    /// Where `=` stands.
    equals: usize,
}

impl Label {
    /// What stands before `=`.
    pub fn key(&self) -> &str {
        &self.text[..self.equals]
    }

    /// What stands behind it.
    pub fn value(&self) -> &str {
        &self.text[self.equals + 1..]
    }
}

impl FromStr for Label {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = |problem| NameError::new(Subject::Label, text, problem);
        let (key, value) = text.split_once('=').ok_or_else(|| wrong(Problem::NoEquals))?;
        check(key).and_then(|()| check(value)).map_err(wrong)?;
        Ok(Self { text: text.into(), equals: key.len() })
    }
}

fn check(part: &str) -> Result<(), Problem> {
    let is_wrong = |c: &char| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-');
    if part.is_empty() {
        Err(Problem::Empty)
    } else if let Some(wrong) = part.chars().find(is_wrong) {
        Err(Problem::Character(wrong))
    } else if part.len() > MAX_PART {
        Err(Problem::TooLong(MAX_PART))
    } else {
        Ok(())
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_label_has_a_key_and_a_value() {
        let label: Label = "site=berlin".parse().expect("a label");
        assert_eq!((label.key(), label.value(), &*label.to_string()), ("site", "berlin", "site=berlin"));
        let problem = |text: &str| text.parse::<Label>().expect_err(text).problem;
        assert_eq!(problem("site"), Problem::NoEquals);
        assert_eq!(
            (problem("=berlin"), problem("site="), problem("")),
            (Problem::Empty, Problem::Empty, Problem::NoEquals)
        );
        assert_eq!((problem("a=b=c"), problem("Site=b")), (Problem::Character('='), Problem::Character('S')));
        assert_eq!(problem(&format!("a={}", "b".repeat(64))), Problem::TooLong(63));
        let error = "site=New York".parse::<Label>().expect_err("a capital").to_string();
        assert!(
            error.starts_with("label 'site=New York' has 'N' where that is not allowed; write key=value"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn what_the_grammar_makes_is_a_label(key in "[a-z0-9._-]{1,63}", value in "[a-z0-9._-]{1,63}") {
            let label: Label = format!("{key}={value}").parse().expect("a label");
            prop_assert_eq!((label.key(), label.value()), (&*key, &*value));
        }
    }
}
