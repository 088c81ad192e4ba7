//! Devices and people: what the registry knows of one.

use std::fmt;
use std::sync::Arc;

use super::RegistryError;
use crate::identity::{Kind, Label, Name, NameError, Pin, UserName};

/// A principal for ever, whatever its name and its keys are. It is never given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrincipalId(pub i64);

/// The name of a principal, which tells its kind too: a device and a user may be named alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrincipalName {
    /// A device's.
    Device(Name),
    /// A user's.
    User(UserName),
}

/// Whether a principal is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not before an operator approves it.
    Pending,
    /// It is.
    Active,
    /// No more; its name stays taken.
    Revoked,
    /// It is gone, and its name free. The record stays, for the keys.
    Removed,
}

/// A principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// What it is meant by.
    pub id: PrincipalId,
    /// How people call it.
    pub name: PrincipalName,
    /// Whether it is let in.
    pub state: State,
    /// What the operator says of it.
    pub labels: Labels,
    /// A device has one that is not revoked; a user may have several.
    pub keys: Box<[Key]>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

/// A key of a principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its fingerprint.
    pub pin: Pin,
    /// Whether this key alone is revoked, since another took its place.
    pub is_revoked: bool,
}

/// What the operator says of a principal: sorted, and no key twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Arc<[Label]>);

impl Principal {
    /// Whether the key alone is revoked, since another took its place.
    pub(super) fn is_key_revoked(&self, pin: &Pin) -> bool {
        self.keys.iter().any(|key| key.pin == *pin && key.is_revoked)
    }
}

impl PrincipalName {
    /// The name of a principal of that kind.
    ///
    /// # Errors
    /// The text is none.
    pub fn new(kind: Kind, text: &str) -> Result<Self, NameError> {
        match kind {
            Kind::Device => Name::device(text).map(Self::Device),
            Kind::User => text.parse().map(Self::User),
        }
    }

    /// Of which kind its principal is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Device(_) => Kind::Device,
            Self::User(_) => Kind::User,
        }
    }

    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Device(name) => name.as_str(),
            Self::User(name) => name.as_str(),
        }
    }
}

impl fmt::Display for PrincipalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Removed => "removed",
        }
    }

    pub(super) fn from_str(text: &str) -> Option<Self> {
        [Self::Pending, Self::Active, Self::Revoked, Self::Removed].into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Labels {
    /// How many a principal may have.
    pub const MAX: usize = 32;

    /// The labels; of two with one key the later.
    ///
    /// # Errors
    /// [`RegistryError::Usage`] if they are too many.
    pub fn new(labels: impl IntoIterator<Item = Label>) -> Result<Self, RegistryError> {
        Self::default().with(labels)
    }

    /// These, and `labels` in place of those with the same keys.
    ///
    /// # Errors
    /// [`RegistryError::Usage`] if they are too many.
    pub fn with(&self, labels: impl IntoIterator<Item = Label>) -> Result<Self, RegistryError> {
        let mut all = self.0.to_vec();
        for label in labels {
            match all.binary_search_by(|other| other.key().cmp(label.key())) {
                Ok(index) => all[index] = label,
                Err(index) => all.insert(index, label),
            }
            if all.len() > Self::MAX {
                let message = format!("more than {} labels; remove some", Self::MAX);
                return Err(RegistryError::Usage(message));
            }
        }
        Ok(Self(all.into()))
    }

    /// These, without those of the key.
    #[must_use]
    pub fn without(&self, key: &str) -> Self {
        Self(self.0.iter().filter(|label| label.key() != key).cloned().collect())
    }

    /// What the key is said to be.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|label| label.key() == key).map(Label::value)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Label> {
        self.0.iter()
    }

    /// What [`Display`](fmt::Display) writes; also with `;` between.
    pub(super) fn parse(text: &str) -> Result<Self, RegistryError> {
        let parts = text.split([' ', ';']).filter(|part| !part.is_empty());
        let labels = parts.map(|part| part.parse::<Label>().map_err(|error| RegistryError::Usage(error.to_string())));
        Self::new(labels.collect::<Result<Vec<_>, _>>()?)
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, label) in self.0.iter().enumerate() {
            write!(f, "{}{label}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_of_two_with_one_key_the_later_counts() {
        let labels = Labels::parse("site=berlin line=7;site=paris").expect("labels");
        assert_eq!(labels.to_string(), "line=7 site=paris");
        assert_eq!((labels.value("site"), labels.value("si")), (Some("paris"), None));
        let other = labels.without("line").with(["site=rome".parse().expect("a label")]).expect("labels");
        assert_eq!(other.to_string(), "site=rome");
        assert_eq!(Labels::parse(&labels.to_string()).expect("labels"), labels);
        assert_eq!(Labels::parse("").expect("none"), Labels::default());
    }

    #[test]
    fn labels_are_bounded() {
        let many = |count: usize| (0..count).map(|index| format!("k{index}=v").parse::<Label>().expect("a label"));
        assert!(Labels::new(many(32)).is_ok());
        assert_eq!(Labels::new(many(33)).expect_err("too many").to_string(), "more than 32 labels; remove some");
    }
}
