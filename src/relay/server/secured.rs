//! Links in TLS: their handshakes, and what the registry says of the keys that they prove.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::net::TcpStream;
use tracing::{debug, info, warn};

use super::admission::Refusal;
use super::client_log::Ending;
use super::handshakes::Handshakes;
use super::log_limits::{Kind, Lasting};
use super::shares::source;
use super::{Peer, Server, Stage};
use crate::connection::relay::Relay;
use crate::identity::{Kind as PrincipalKind, Pin, Pins};
use crate::io::event_loop::Source;
use crate::io::mailbox::{Mailbox, Request};
use crate::io::net;
use crate::io::session::{LinkLost, Session};
use crate::protocol::ProtocolError;
use crate::protocol::v2::{self, Code, GoAway, Settings};
use crate::relay::TlsPort;
use crate::relay::registry::{
    self, Candidate, ClaimedName, Decision, PresentedToken, Principal, PrincipalId, PrincipalName, RegistryError,
    SecretDigest, Standing,
};
use crate::tls::{Acceptor, Greeting, TlsError};

/// How long the first message of a handshake may take.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// What a token that is good for nothing costs its connection.
const WRONG_TOKEN: Duration = Duration::from_secs(1);
/// Seconds after which a device may come back that is not admitted, and one that could not be looked up.
const RETRY_REFUSED: u16 = 60;
const RETRY_BUSY: u16 = 5;

/// What links in TLS have in common.
#[derive(Debug)]
pub(super) struct Secured {
    pub(super) port: TlsPort,
    acceptor: Acceptor,
    pub(super) handshakes: Handshakes,
    /// Questions that the registry was asked.
    asked: u64,
    /// Those on which it could not decide.
    undecided: Lasting,
    sender: Sender<Answer>,
    answers: Receiver<Answer>,
    requests: Mailbox,
    /// The snapshot by which the links that are here were last looked at.
    snapshot: u64,
}

/// What the registry says, to which question, about which session.
type Answer = (usize, u64, Result<Decision, RegistryError>);

/// Why a link is cut whose device was admitted.
#[derive(Clone, Copy, Debug)]
struct Barred {
    code: Code,
    reason: &'static str,
}

impl Barred {
    const REVOKED: Self = Self { code: Code::Revoked, reason: "this key is revoked; join anew with another token" };
    const REMOVED: Self = Self {
        code: Code::UnknownDevice,
        reason: "this device was removed, so its key is not known here any more; join anew with a token",
    };
    /// It was removed, and its key added again.
    const RENAMED: Self = Self { code: Code::UnknownDevice, reason: "this key was given another name; connect again" };
}

/// What is known of one link in TLS.
#[derive(Debug)]
pub(super) struct Proof {
    /// It counts among the handshakes of this source, until it is decided about.
    source: Option<IpAddr>,
    hello_until: Option<Instant>,
    /// The question that the registry was asked.
    asked: Option<u64>,
    /// It is refused then; few are.
    refused: Option<Box<(Instant, Refusal)>>,
    /// As whom it was admitted, by which key.
    pub(super) admitted: Option<(PrincipalId, Pin)>,
    /// Whether the registry knows that the device has read what it was told then.
    pub(super) is_told: bool,
    /// Which start of the device's process it is from.
    pub(super) instance: Option<[u8; 16]>,
}

impl Proof {
    /// The source among whose handshakes it counted until now.
    pub(super) fn take_source(&mut self) -> Option<IpAddr> {
        self.source.take()
    }

    /// Whether the device is refused in a moment.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// When the link is to be visited though nothing has happened.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let refused = self.refused.as_ref().map(|refused| refused.0);
        [self.hello_until, refused].into_iter().flatten().min()
    }
}

impl Secured {
    /// The loop looks at `requests` when the registry has something to say.
    pub(super) fn new(port: TlsPort, requests: Mailbox) -> Result<Self, TlsError> {
        let acceptor = Acceptor::new(&port.key)?;
        let (sender, answers) = channel();
        let watcher = requests.clone();
        port.registry.watch(Box::new(move || {
            watcher.post(Request::Registry);
        }));
        let snapshot = port.registry.snapshot().number();
        let (handshakes, undecided) = (Handshakes::default(), Lasting::default());
        Ok(Self { port, acceptor, handshakes, asked: 0, undecided, sender, answers, requests, snapshot })
    }
}

impl Server {
    /// A connection on the port for TLS.
    pub(super) fn add_to_handshakes(&mut self, now: Instant, io: TcpStream, address: SocketAddr) {
        // As many as could become links.
        let most = self.descriptors.devices.saturating_sub(self.served).max(self.descriptors.pending);
        let Some(secured) = &mut self.secured else { return };
        if secured.handshakes.len() >= most {
            match secured.handshakes.drop_one() {
                Ok(dropped) => self.log_dropped_handshake(now, dropped, most),
                Err(of_most) => self.drop_handshake(now, of_most, most),
            }
        }
        let Some(secured) = &mut self.secured else { return };
        let source = source(address);
        if let Some((io, address)) = secured.handshakes.arrive(source, (io, address)) {
            self.begin_handshake(now, source, io, address);
        }
    }

    /// Those that waited begin.
    pub(super) fn begin_handshakes(&mut self, now: Instant) {
        while let Some((source, (io, address))) = self.secured.as_mut().and_then(|secured| secured.handshakes.next()) {
            self.begin_handshake(now, source, io, address);
        }
    }

    /// The oldest of the source that has the most is the least likely to come to an end.
    fn drop_handshake(&mut self, now: Instant, of_most: Option<IpAddr>, most: usize) {
        let of_source = |peer: &Peer| peer.proof.as_ref().is_some_and(|proof| proof.source == of_most);
        let sessions = self.sessions.iter().filter(|(_, peer)| of_source(peer));
        let began = |peer: &Peer| if let Stage::Handshake(since) = peer.stage { Some(since) } else { None };
        let oldest = sessions.min_by_key(|(_, peer)| began(peer)).map(|(number, peer)| (number, peer.address));
        if let Some((number, address)) = oldest {
            self.log_dropped_handshake(now, address, most);
            self.cut(now, number, Code::Overload, "");
        }
    }

    fn log_dropped_handshake(&mut self, now: Instant, link: SocketAddr, others: usize) {
        if self.log_limits.admit(now, Self::NO_DEVICE, Kind::Stray) {
            warn!(%link, others, "dropped a connection on the port for TLS: too many others are in their handshakes");
        }
    }

    fn begin_handshake(&mut self, now: Instant, source: IpAddr, mut io: TcpStream, address: SocketAddr) {
        let Some(secured) = &mut self.secured else { return };
        // The options only hasten what the protocol does without them.
        let _ = net::tune_link(&io);
        let number = self.sessions.reserve();
        let tls = secured.acceptor.start().map_err(|error| error.to_string());
        let watched = self.io.event_loop.register(&mut io, Source::Link(number)).map_err(|error| error.to_string());
        let (tls, token) = match tls.and_then(|tls| Ok((tls, watched?))) {
            Ok(both) => both,
            Err(reason) => {
                secured.handshakes.end(source);
                self.sessions.remove(number);
                if self.log_limits.admit(now, Self::NO_DEVICE, Kind::Stray) {
                    warn!(link = %address, %reason, "cannot begin TLS on a connection");
                }
                return;
            }
        };
        debug!(link = %address, "a connection on the port for TLS");
        let relay = Relay::in_tls(now, self.config.limits);
        let session = Session::in_tls(relay, number, io, token, tls, &mut self.io);
        let hello_until = Some(now + HELLO_TIMEOUT);
        let source = Some(source);
        let proof =
            Proof { source, hello_until, asked: None, refused: None, admitted: None, is_told: false, instance: None };
        self.insert_session(number, session, address, None, Stage::Handshake(now), Some(proof));
    }

    /// What is due on a link in TLS that is not admitted.
    pub(super) fn handle_proof_timeout(&mut self, now: Instant, number: usize) {
        let Some(peer) = self.sessions.get_mut(number) else { return };
        let Some(proof) = &mut peer.proof else { return };
        let has_hello = peer.session.has_hello();
        if has_hello {
            proof.hello_until = None;
        }
        let refused = proof.refused.take_if(|refused| refused.0 <= now || !peer.session.has_link());
        if let Some(refused) = refused {
            self.refuse_link(now, number, refused.1);
        } else if proof.hello_until.take_if(|until| *until <= now).is_some() {
            self.lose_link(now, number, &LinkLost::Protocol(ProtocolError::NoClientHello));
        }
    }

    /// A session is no handshake any more: another of its source may begin.
    pub(super) fn end_handshake(&mut self, number: usize) {
        let source = self.sessions.get_mut(number).and_then(|peer| peer.proof.as_mut()?.source.take());
        self.release(source);
    }

    pub(super) fn release(&mut self, source: Option<IpAddr>) {
        if let (Some(secured), Some(source)) = (&mut self.secured, source) {
            secured.handshakes.end(source);
        }
    }

    /// The device has said who it is: the registry is asked about it.
    pub(super) fn ask_registry(&mut self, number: usize) {
        let (Some(peer), Some(secured)) = (self.sessions.get_mut(number), &mut self.secured) else { return };
        let Some(key) = peer.session.peer_key().copied() else { return };
        let join = peer.session.take_join();
        let (Some(proof), Some(said)) = (&mut peer.proof, peer.session.connection().peer()) else { return };
        let token = join.map(|join| PresentedToken { id: join.token, secret: SecretDigest(join.secret.digest()) });
        let wish = said.name.as_ref().map(|name| ClaimedName::new(name.as_str()));
        let (kind, address) = (PrincipalKind::Device, peer.address.ip());
        let candidate = Candidate { kind, key, wish, token, address, now: unix_time() };
        secured.asked += 1;
        let question = secured.asked;
        proof.asked = Some(question);
        proof.instance = said.instance;
        let (sender, requests) = (secured.sender.clone(), secured.requests.clone());
        let answer = move |result| {
            // Without a receiver the relay has ended.
            let _ = sender.send((number, question, result));
            requests.post(Request::Answers);
        };
        secured.port.registry.admit(candidate, Box::new(answer));
    }

    /// What the registry has decided since the last call.
    pub(super) fn take_decisions(&mut self, now: Instant) {
        if !self.requests.take(Request::Answers) {
            return;
        }
        while let Some(Ok((number, question, result))) = self.secured.as_ref().map(|secured| secured.answers.try_recv())
        {
            let proof = self.sessions.get_mut(number).and_then(|peer| peer.proof.as_mut());
            // Its number may be another's by now.
            if proof.and_then(|proof| proof.asked.take_if(|asked| *asked == question)).is_some() {
                self.decide(now, number, result);
            }
        }
    }

    fn decide(&mut self, now: Instant, number: usize, result: Result<Decision, RegistryError>) {
        let refusal = match result {
            Ok(Decision::Admitted { principal, joined }) => match self.still_admits(number, &principal) {
                Ok(principal) => return self.welcome(now, number, &principal, joined),
                Err(refusal) => refusal,
            },
            Ok(Decision::Pending(_)) => self.pending(number),
            Ok(Decision::Refused(refusal)) => {
                let code = match &refusal {
                    registry::Refusal::Unknown => Code::UnknownDevice,
                    registry::Refusal::Revoked(_) => Code::Revoked,
                    registry::Refusal::Token(_)
                    | registry::Refusal::Wish
                    | registry::Refusal::NameTaken(_)
                    | registry::Refusal::NameReserved(_) => Code::Token,
                };
                if let registry::Refusal::Token(fault) = &refusal
                    && let Some(peer) = self.sessions.get_mut(number)
                {
                    debug!(link = %peer.address, ?fault, "a token is good for nothing");
                    if let Some(proof) = &mut peer.proof {
                        let refusal = Refusal::new(code, RETRY_REFUSED, refusal.reason());
                        proof.refused = Some(Box::new((now + WRONG_TOKEN, refusal)));
                    }
                    return;
                }
                Refusal::new(code, RETRY_REFUSED, refusal.reason())
            }
            Err(error) => {
                // Each device comes again in some seconds, for as long as a disk takes nothing.
                if let Some(secured) = &mut self.secured
                    && let Some(others) = secured.undecided.note(now)
                {
                    warn!(%error, others, "the registry cannot decide about a device, which is to come again");
                }
                let refusal = Refusal::new(Code::Overload, RETRY_BUSY, "the relay cannot look the key up now");
                return self.turn_away(now, number, refusal);
            }
        };
        self.refuse_link(now, number, refusal);
    }

    /// The registry may have changed since it decided.
    fn still_admits(&self, number: usize, principal: &Principal) -> Result<Arc<Principal>, Refusal> {
        let key = self.sessions.get(number).and_then(|peer| peer.session.peer_key()).map(|key| key.pin());
        let (Some(secured), Some(pin)) = (&self.secured, key) else {
            return Err(Refusal::new(Code::Internal, RETRY_BUSY, "the link has no key"));
        };
        match secured.port.registry.snapshot().standing(PrincipalKind::Device, &pin) {
            Standing::Active(now) if now.id == principal.id => Ok(Arc::clone(now)),
            Standing::Pending(_) => Err(self.pending(number)),
            Standing::Revoked(now) => {
                let refusal = registry::Refusal::Revoked(Arc::clone(now));
                Err(Refusal::new(Code::Revoked, RETRY_REFUSED, refusal.reason()))
            }
            Standing::Active(_) | Standing::Unknown | Standing::OtherKind => {
                Err(Refusal::new(Code::UnknownDevice, RETRY_REFUSED, registry::Refusal::Unknown.reason()))
            }
        }
    }

    fn pending(&self, number: usize) -> Refusal {
        let key = self.sessions.get(number).and_then(|peer| peer.session.peer_key());
        let pin = key.map_or_else(String::new, |key| format!(" {}", key.pin()));
        let reason = format!("this device's key waits for approval; run at the relay: tcp-remote-relay approve{pin}");
        Refusal::new(Code::Pending, RETRY_REFUSED, reason)
    }

    /// The device is admitted, and takes its place.
    fn welcome(&mut self, now: Instant, number: usize, principal: &Principal, joined: bool) {
        self.end_handshake(number);
        let PrincipalName::Device(name) = &principal.name else { return };
        let Some(peer) = self.sessions.get(number).filter(|peer| peer.session.has_link()) else { return };
        if let Some(reason) = peer.session.link_end() {
            return self.lose_link(now, number, &reason);
        }
        // It would take the place of a link that serves clients, and leave the place empty.
        if peer.session.connection().is_going_away() {
            return self.lose_link(now, number, &LinkLost::Ended);
        }
        // The name of a plain device is the configuration's: no other may carry its clients.
        if self.config.devices.iter().any(|plain| plain.name.as_ref() == Some(name)) {
            let reason = format!("the relay's configuration has a plain device '{name}', so join by another name");
            return self.refuse_link(now, number, Refusal::new(Code::Denied, RETRY_REFUSED, reason));
        }
        let device = self.named(name);
        if let Err(refusal) = self.has_place_for(device) {
            self.forget_device_if_gone(device);
            return self.refuse_link(now, number, refusal);
        }
        let (Some(peer), Some(secured)) = (self.sessions.get_mut(number), &self.secured) else { return };
        let Some(pin) = peer.session.peer_key().map(|key| key.pin()) else { return };
        let TlsPort { key, next, addresses, registry, .. } = &secured.port;
        let pins = Some(Pins { current: key.public().pin(), next: *next });
        let (time, addresses) = (unix_time(), addresses.clone());
        let said = Settings { name: Some(name.clone()), pins, time: Some(time), addresses, ..Settings::default() };
        let instance = peer.proof.as_ref().and_then(|proof| proof.instance);
        let is_alone =
            instance.zip(self.devices.get_mut(device)).is_none_or(|(instance, of)| of.note_instance(instance));
        if !is_alone && self.log_limits.admit(now, device, Kind::Arrival) {
            warn!(link = %peer.address, device = %name, "two devices have one key, and take each other's place");
        }
        peer.session.admit(now, said);
        registry.note_seen(principal.id, time);
        if let Some(proof) = &mut peer.proof {
            proof.admitted = Some((principal.id, pin));
        }
        if joined {
            info!(link = %peer.address, device = %name, "a device has joined");
        }
        self.take_place(now, number, device);
    }

    /// The registry has changed: links of keys that are not admitted any more are cut, all of them, with their streams.
    pub(super) fn recheck_admissions(&mut self, now: Instant) {
        if !self.requests.take(Request::Registry) {
            return;
        }
        let Some(secured) = &mut self.secured else { return };
        let snapshot = secured.port.registry.snapshot();
        if snapshot.number() == secured.snapshot {
            return;
        }
        secured.snapshot = snapshot.number();
        let barred = |peer: &Peer| {
            let (id, pin) = peer.proof.as_ref()?.admitted?;
            match snapshot.standing(PrincipalKind::Device, &pin) {
                Standing::Active(principal) if principal.id == id => None,
                Standing::Revoked(_) => Some(Barred::REVOKED),
                Standing::Active(_) | Standing::Pending(_) => Some(Barred::RENAMED),
                Standing::Unknown | Standing::OtherKind => Some(Barred::REMOVED),
            }
        };
        let barred: Vec<(usize, Barred)> =
            self.sessions.iter().filter_map(|(number, peer)| Some((number, barred(peer)?))).collect();
        for (number, why) in barred {
            self.bar(now, number, why);
        }
    }

    fn bar(&mut self, now: Instant, number: usize, why: Barred) {
        let Barred { code, reason } = why;
        let Some(peer) = self.sessions.get_mut(number) else { return };
        if self.log_limits.admit(now, peer.log_device(), Kind::Departure) {
            warn!(link = %peer.address, %reason, "cut a link: its key is not admitted any more");
        }
        peer.session.go_away(now, code, RETRY_REFUSED, reason);
        peer.session.close_link(now, &mut self.io);
        self.leave_device(now, number, &Ending::new(code, reason));
        self.cut(now, number, code, reason);
    }

    /// On the port for TLS a device without TLS gets an answer that it can read.
    pub(super) fn answer_in_the_clear(&mut self, now: Instant, number: usize, reason: &LinkLost) {
        if !matches!(reason, LinkLost::Tls(TlsError::NotTls(Greeting::PlainLink))) {
            return;
        }
        let refusal = Settings { refuses: true, ..Settings::default() };
        let reason =
            "this port is for devices with an identity: join the relay, or use its port for plain links".into();
        let away = GoAway { code: Code::Protocol, retry_after: RETRY_REFUSED, last_stream: 0, reason };
        let answer = [&v2::HELLO.encode()[..], &refusal.frame(), &away.frame()].concat();
        if let Some(peer) = self.sessions.get_mut(number) {
            peer.session.close_link_in_the_clear(now, &mut self.io, &answer);
        }
    }
}

/// Now, in seconds since 1970.
pub(super) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
