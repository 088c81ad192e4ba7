//! The identities that the registry stores; a stand-in with the names and signatures of `crate::identity`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest name of a device or a group, in bytes.
const MAX_NAME: usize = 63;

/// Names that mean something else wherever a device, a service or a group is named.
const RESERVED: [&str; 3] = ["localhost", "relay", "any"];
/// How much of a wrong value an error shows, in characters.
const SHOWN: usize = 80;

/// The name of a device: a label of DNS in lower case that begins with a letter.
///
/// It is valid once it exists, and cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// What a text was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The name of a device.
    Device,
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
pub(crate) fn check_beginning(text: &str, most: usize) -> Result<(), Problem> {
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
    pub(crate) fn new(subject: Subject, text: &str, problem: Problem) -> Self {
        let text = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        Self { subject, text, problem }
    }
}

impl Subject {
    /// What is allowed, for a person.
    fn allowed(self) -> &'static str {
        match self {
            Self::Device => {
                "write 1 to 63 of a-z, 0-9 and '-', a letter first and no '-' last, and not 'localhost', 'relay' or 'any'"
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
            Self::User => "user name",
            Self::Label => "label",
            Self::Pattern => "pattern",
        })
    }
}

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
        check_part(key).and_then(|()| check_part(value)).map_err(wrong)?;
        Ok(Self { text: text.into(), equals: key.len() })
    }
}

fn check_part(part: &str) -> Result<(), Problem> {
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

/// The SHA-256 of an Ed25519 key's SubjectPublicKeyInfo (44 bytes, DER).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin(pub [u8; 32]);

/// Who may join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A device.
    Device = 1,
    /// A person's laptop.
    User = 2,
}

/// What names a token. It is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; Self::LEN]);

impl TokenId {
    /// Its length in bytes.
    pub const LEN: usize = 8;
}
