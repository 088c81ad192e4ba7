//! placeholder
/// Names one stream of a link inside this process: a slot and how often it was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}
