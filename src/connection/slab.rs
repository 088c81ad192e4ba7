//! Values with keys that tell a slot's present owner from its past ones.

use super::StreamKey;

/// Values by [`StreamKey`].
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    /// The generation of slots that are made now: no key of one that was given back is used again.
    first: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), first: 0 }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, value: T) -> StreamKey {
        let index = self.free.pop().unwrap_or(self.slots.len() as u32);
        if index as usize == self.slots.len() {
            self.slots.push(Slot { generation: self.first, value: None });
        }
        let slot = &mut self.slots[index as usize];
        slot.value = Some(value);
        StreamKey { index, generation: slot.generation }
    }

    pub(crate) fn get(&self, key: StreamKey) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: StreamKey) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, key: StreamKey) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }

    /// All of them, in the order of their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (StreamKey, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let key = StreamKey { index: index as u32, generation: slot.generation };
            Some((key, slot.value.as_ref()?))
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there is memory for values.
    pub(crate) fn has_memory(&self) -> bool {
        self.slots.capacity() > 0
    }

    /// Frees the memory, if there are no values.
    pub(crate) fn give_back(&mut self) {
        if self.len() == 0 {
            let newest = self.slots.iter().map(|slot| slot.generation).max();
            *self = Self { first: newest.map_or(self.first, |newest| newest.wrapping_add(1)), ..Self::default() };
        }
    }

    /// All keys, in the order of their slots.
    pub(crate) fn keys(&self) -> Vec<StreamKey> {
        let live = self.slots.iter().enumerate().filter(|(_, slot)| slot.value.is_some());
        live.map(|(index, slot)| StreamKey { index: index as u32, generation: slot.generation }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_the_past_reaches_nothing() {
        let mut slab = Slab::default();
        let old = slab.insert('a');
        slab.remove(old);
        let new = slab.insert('b');
        assert_eq!(old.index, new.index);
        assert!(slab.get(old).is_none() && slab.remove(old).is_none());
        assert_eq!((slab.get(new), slab.len()), (Some(&'b'), 1));
        slab.give_back();
        assert!(slab.get(new).is_some(), "it has a value");
        slab.remove(new);
        slab.give_back();
        assert!(!slab.has_memory());
        slab.insert('c');
        assert!(slab.get(old).is_none() && slab.get(new).is_none());
    }
}
