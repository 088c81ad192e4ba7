//! What the registry is to remember of a device's links: when one was there, and what the device has learnt by it.

use super::secured::unix_time;
use super::{Peer, Server};
use crate::connection::Connection;
use crate::identity::Pins;

impl Server {
    /// A device is seen for as long as its link is there.
    pub(super) fn note_seen(&self, number: usize) {
        let proof = self.sessions.get(number).and_then(|peer| peer.proof.as_ref());
        if let (Some(secured), Some((principal, _))) = (&self.secured, proof.and_then(|proof| proof.admitted)) {
            secured.port.registry.note_seen(principal, unix_time());
        }
    }

    /// A device that has answered a PING has read what was sent before: which key is to follow the relay's.
    pub(super) fn note_told(&mut self, number: usize) {
        let (Some(Peer { session, proof: Some(proof), .. }), Some(secured)) =
            (self.sessions.get_mut(number), &self.secured)
        else {
            return;
        };
        if let Some((principal, _)) = proof.admitted.filter(|_| !proof.is_told)
            && session.connection().counters().round_trip.is_some()
        {
            proof.is_told = true;
            let announced = Pins { current: secured.port.key.public().pin(), next: secured.port.next };
            secured.port.registry.note_told(principal, announced);
        }
    }
}
