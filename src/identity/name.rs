//! Names of devices, services and groups, and what is wrong with those that are none.

use std::fmt;
use std::sync::Arc;

/// The longest name of a device or a group, in bytes.
pub const MAX_NAME: usize = 63;
/// The longest name of a service, in bytes.
pub const MAX_SERVICE_NAME: usize = 31;

/// Names that mean something else wherever a device, a service or a group is named.
const RESERVED: [&str; 3] = ["localhost", "relay", "any"];
/// How much of a wrong value an error shows, in characters.
const SHOWN: usize = 80;

/// The name of a device, a service or a group: a label of DNS in lower case that begins with a letter.
///
/// It is valid once it exists, and cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// What a text was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The name of a device.
    Device,
    /// The name of a service.
    Service,
    /// The name of a group.
    Group,
    /// The name of a user.
    User,
    /// A label, `key=value`.
    Label,
    /// A pattern of names of devices.
    Pattern,
}

/// Why a text is not what it was to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject} '{text}' {problem}; {allowed}", allowed = subject.allowed())]
pub struct NameError {
    /// What it was to be.
    pub subject: Subject,
    /// The text, escaped and cut to what a line can hold.
    pub text: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// There is no character in it, or in the part that is named.
    #[error("is empty, or a part of it")]
    Empty,
    /// It has more bytes than that.
    #[error("is longer than {0} characters")]
    TooLong(usize),
    /// A character stands where it must not.
    #[error("has {0:?} where that is not allowed")]
    Character(char),
    /// It begins as names that DNS keeps for itself, such as `xn--`.
    #[error("has '--' as its third and fourth character")]
    Hyphens,
    /// The name is reserved.
    #[error("is reserved")]
    Reserved,
    /// A label without `=`.
    #[error("has no '='")]
    NoEquals,
}

impl Name {
    /// The name of a device.
    ///
    /// # Errors
    /// It is not `[a-z]([a-z0-9-]{0,61}[a-z0-9])?`, has `--` at its third place, or is reserved.
    pub fn device(text: &str) -> Result<Self, NameError> {
        Self::new(Subject::Device, text, MAX_NAME)
    }

    /// The name of a service: as a device's, with at most 31 bytes.
    ///
    /// # Errors
    /// It is none.
    pub fn service(text: &str) -> Result<Self, NameError> {
        Self::new(Subject::Service, text, MAX_SERVICE_NAME)
    }

    /// The name of a group: as a device's.
    ///
    /// # Errors
    /// It is none.
    pub fn group(text: &str) -> Result<Self, NameError> {
        Self::new(Subject::Group, text, MAX_NAME)
    }

    fn new(subject: Subject, text: &str, most: usize) -> Result<Self, NameError> {
        check(text, most).map_err(|problem| NameError::new(subject, text, problem))?;
        Ok(Self(text.into()))
    }

    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `text` is a name of at most `most` bytes.
fn check(text: &str, most: usize) -> Result<(), Problem> {
    check_beginning(text, most)?;
    if text.ends_with('-') {
        Err(Problem::Character('-'))
    } else if RESERVED.contains(&text) {
        Err(Problem::Reserved)
    } else {
        Ok(())
    }
}

/// Whether a name of at most `most` bytes can begin with `text`, which is not empty.
pub(super) fn check_beginning(text: &str, most: usize) -> Result<(), Problem> {
    let first = text.chars().next().ok_or(Problem::Empty)?;
    let is_wrong = |c: &char| !matches!(c, 'a'..='z' | '0'..='9' | '-');
    let wrong = Some(first).filter(|first| !first.is_ascii_lowercase()).or_else(|| text.chars().find(is_wrong));
    if let Some(wrong) = wrong {
        Err(Problem::Character(wrong))
    } else if text.len() > most {
        Err(Problem::TooLong(most))
    } else if text.get(2..4) == Some("--") {
        Err(Problem::Hyphens)
    } else {
        Ok(())
    }
}

impl NameError {
    pub(super) fn new(subject: Subject, text: &str, problem: Problem) -> Self {
        let text = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        Self { subject, text, problem }
    }
}

impl Subject {
    /// What is allowed, for a person.
    fn allowed(self) -> &'static str {
        match self {
            Self::Device | Self::Group => {
                "write 1 to 63 of a-z, 0-9 and '-', a letter first and no '-' last, and not 'localhost', 'relay' or 'any'"
            }
            Self::Service => {
                "write 1 to 31 of a-z, 0-9 and '-', a letter first and no '-' last, and not 'localhost', 'relay' or 'any'"
            }
            Self::User => "write 1 to 64 of a-z, 0-9 and '._@-', a letter or a digit first",
            Self::Label => "write key=value, each 1 to 63 of a-z, 0-9 and '._-', for example site=berlin",
            Self::Pattern => "write a device's name, or the beginning of names with '*' behind it, for example line7-*",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "device name",
            Self::Service => "service name",
            Self::Group => "group name",
            Self::User => "user name",
            Self::Label => "label",
            Self::Pattern => "pattern",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problem(text: &str) -> Problem {
        Name::device(text).expect_err(text).problem
    }

    #[test]
    fn names_are_labels_of_dns_that_begin_with_a_letter() {
        for text in ["a", "pump-3", "line7-4f2a9c01", "a-b--c", "ab-", &"a".repeat(63)] {
            assert_eq!(Name::device(text).is_ok(), text != "ab-", "{text}");
        }
        assert_eq!(problem(""), Problem::Empty);
        assert_eq!(problem(&"a".repeat(64)), Problem::TooLong(63));
        for (text, wrong) in
            [("3pumps", '3'), ("-a", '-'), ("a-", '-'), ("Pump", 'P'), ("pump_3", '_'), ("p\u{fc}", 'ü')]
        {
            assert_eq!(problem(text), Problem::Character(wrong));
        }
        assert_eq!(problem("xn--pump"), Problem::Hyphens);
        for text in ["localhost", "relay", "any"] {
            assert_eq!(problem(text), Problem::Reserved);
        }
    }

    #[test]
    fn a_service_has_a_shorter_name() {
        assert!(Name::service(&"s".repeat(31)).is_ok());
        assert_eq!(Name::service(&"s".repeat(32)).expect_err("too long").problem, Problem::TooLong(31));
        assert!(Name::group(&"s".repeat(63)).is_ok());
    }

    #[test]
    fn an_error_says_which_value_is_wrong_where_and_what_is_allowed() {
        assert_eq!(
            Name::device("Pump\n").expect_err("wrong").to_string(),
            "device name 'Pump\\n' has 'P' where that is not allowed; write 1 to 63 of a-z, 0-9 and '-', a letter first \
             and no '-' last, and not 'localhost', 'relay' or 'any'"
        );
        assert!(Name::service("any").expect_err("reserved").to_string().starts_with("service name 'any' is reserved;"));
        let endless = Name::group(&"\u{1b}".repeat(1 << 20)).expect_err("wrong").to_string();
        assert!(endless.len() < 1000, "{} bytes", endless.len());
    }

    proptest! {
        #[test]
        fn what_the_grammar_makes_is_a_name(text in "[a-z]([a-z0-9-]{0,61}[a-z0-9])?") {
            let is_kept = text.get(2..4) == Some("--") || RESERVED.contains(&&*text);
            prop_assert_eq!(Name::device(&text).is_err(), is_kept);
            if let Ok(name) = Name::device(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn what_is_a_name_is_of_the_grammar(text in "[a-z0-9A-Z*.\u{e9} -]{0,66}") {
            if Name::device(&text).is_ok() {
                let bytes = text.as_bytes();
                prop_assert!((1..=63).contains(&bytes.len()) && bytes[0].is_ascii_lowercase());
                prop_assert!(bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-'));
                prop_assert!(!text.ends_with('-'));
            }
        }
    }
}
