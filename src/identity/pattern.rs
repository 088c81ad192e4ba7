//! Many devices by one text.

use std::fmt;
use std::str::FromStr;

use super::name::{MAX_NAME, Name, NameError, Problem, Subject, check_beginning};

/// A name of a device, or the beginning of names with `*` behind it; `*` alone means every device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// One device.
    Name(Name),
    /// Every device whose name begins so.
    Beginning(Box<str>),
}

impl Pattern {
    /// Whether the device of that name is meant.
    pub fn matches(&self, name: &Name) -> bool {
        match self {
            Self::Name(only) => only == name,
            Self::Beginning(beginning) => name.as_str().starts_with(&**beginning),
        }
    }
}

impl FromStr for Pattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = |problem| NameError::new(Subject::Pattern, text, problem);
        match text.strip_suffix('*') {
            Some("") => Ok(Self::Beginning("".into())),
            Some(beginning) => {
                check_beginning(beginning, MAX_NAME - 1).map_err(wrong)?;
                Ok(Self::Beginning(beginning.into()))
            }
            // Said of a pattern: somebody who writes 'a*b' is to read where '*' may stand.
            None if text.contains('*') => Err(wrong(Problem::Character('*'))),
            None => Name::device(text).map(Self::Name).map_err(|error| wrong(error.problem)),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Beginning(beginning) => write!(f, "{beginning}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_asterisk_stands_alone_or_last() {
        let device = |text| Name::device(text).expect(text);
        for (text, matching, other) in
            [("line7-*", "line7-a", "line8"), ("pump-3", "pump-3", "pump-33"), ("l*", "l", "m")]
        {
            let pattern: Pattern = text.parse().expect(text);
            assert!(pattern.matches(&device(matching)) && !pattern.matches(&device(other)), "{text}");
            assert_eq!(pattern.to_string(), text);
        }
        assert!("*".parse::<Pattern>().expect("all").matches(&device("pump-3")));
        let problem = |text: &str| text.parse::<Pattern>().expect_err(text).problem;
        for text in ["*a", "a*b", "a**", "**"] {
            assert_eq!(problem(text), Problem::Character('*'), "{text}");
        }
        assert_eq!(
            (problem(""), problem("xn--*"), problem("7*")),
            (Problem::Empty, Problem::Hyphens, Problem::Character('7'))
        );
        assert_eq!(problem(&format!("{}*", "a".repeat(63))), Problem::TooLong(62));
        let error = "a*b".parse::<Pattern>().expect_err("in the middle").to_string();
        assert!(error.starts_with("pattern 'a*b' has '*' where that is not allowed; write a device's name"), "{error}");
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_begins_with_it(beginning in "[a-z][a-z0-9]{0,20}", rest in "[a-z0-9]{1,20}") {
            let pattern: Pattern = format!("{beginning}*").parse().expect("a pattern");
            if let Ok(name) = Name::device(&format!("{beginning}{rest}")) {
                prop_assert!(pattern.matches(&name));
            }
            if let Ok(name) = Name::device(&format!("z{beginning}{rest}")) {
                prop_assert_eq!(pattern.matches(&name), name.as_str().starts_with(&beginning));
            }
        }
    }
}
