//! The clients: each carries out its plan, and judges what it sees.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::bytes::{Bytes, Way};
use crate::connection::{Connection, Stop};
use crate::plan::{Kind, Plan};
use crate::report::{Outcome, Report};

/// How long the kernel may take to connect on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// What a ping-pong client sends at a time.
const MESSAGE: u64 = 64;

/// Where clients connect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entrances {
    pub(crate) served: SocketAddr,
    /// The same service, by a name that has to be looked up.
    pub(crate) named: SocketAddr,
    /// Its service does not exist.
    pub(crate) refused: SocketAddr,
    /// Its service's name does not exist.
    pub(crate) unresolved: SocketAddr,
}

impl Entrances {
    fn of(&self, plan: &Plan) -> SocketAddr {
        if plan.kind == Kind::Refused {
            self.refused
        } else if plan.kind == Kind::Unresolved {
            self.unresolved
        } else if plan.client.is_multiple_of(4) {
            self.named
        } else {
            self.served
        }
    }
}

/// One client's life.
pub(crate) fn run(plan: &Plan, entrances: Entrances, report: &Report) -> Outcome {
    let plan = &Plan { kills: report.kills(), ..*plan };
    let address = entrances.of(plan);
    let outcome = match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
        Ok(stream) => {
            let result = Connection::new(stream, Default::default()).map_err(|_| Stop::Cut);
            report.judge("client", plan, result.and_then(|connection| act(plan, connection, report)))
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Outcome::TurnedAway,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Outcome::Cut,
        Err(error) => {
            report.violation(format!("client {} cannot connect to {address}: {error}", plan.client));
            Outcome::Violation
        }
    };
    report.count_client(plan.kind, outcome);
    outcome
}

fn act(plan: &Plan, mut connection: Connection, report: &Report) -> Result<(), Stop> {
    let ours = Bytes::new(plan.client, Way::ToService);
    let theirs = Bytes::new(plan.client, Way::ToClient);
    if plan.kind == Kind::Leave {
        if plan.cut.is_multiple_of(2) {
            connection.reset();
        }
        return Ok(());
    }
    if matches!(plan.kind, Kind::Refused | Kind::Unresolved) {
        return be_refused(plan, &mut connection);
    }
    connection.write(&plan.request())?;
    match plan.kind {
        Kind::Leave | Kind::Refused | Kind::Unresolved => {}
        Kind::Upload | Kind::SlowService => {
            connection.send(ours, plan.up)?;
            connection.finish()?;
            expect_answer(plan, &mut connection)?;
        }
        Kind::Download | Kind::SlowReader => {
            connection.receive(theirs, 0, plan.down, plan.pause)?;
            connection.expect_end()?;
            report.count_down(plan.down);
        }
        Kind::HalfClose => {
            connection.finish()?;
            connection.receive(theirs, 0, plan.down, plan.pause)?;
            connection.expect_end()?;
            report.count_down(plan.down);
        }
        Kind::Echo => {
            echo_at_once(plan, &mut connection, ours)?;
            report.count_down(plan.up);
        }
        Kind::PingPong | Kind::Idle => {
            thread::sleep(plan.pause);
            let mut message = [0; MESSAGE as usize];
            for offset in (0..plan.up).step_by(MESSAGE as usize) {
                ours.fill(offset, &mut message);
                connection.write(&message)?;
                connection.receive(ours, offset, MESSAGE, Duration::ZERO)?;
            }
            connection.finish()?;
            connection.expect_end()?;
            report.count_down(plan.up);
        }
        Kind::ServiceFirst => {
            connection.receive(theirs, 0, plan.down, Duration::ZERO)?;
            connection.expect_end()?;
            report.count_down(plan.down);
            connection.send(ours, plan.up)?;
            connection.finish()?;
        }
        Kind::ClientReset => {
            connection.send(ours, plan.cut)?;
            connection.reset();
        }
        Kind::ServiceReset => connection.expect_reset(theirs)?,
    }
    Ok(())
}

/// No service takes it: it is reset, unless it leaves before.
fn be_refused(plan: &Plan, connection: &mut Connection) -> Result<(), Stop> {
    match connection.write(&plan.request()) {
        Ok(()) if plan.kind == Kind::Unresolved && plan.cut.is_multiple_of(3) => Ok(()),
        Ok(()) => connection.expect_reset(Bytes::new(plan.client, Way::ToClient)),
        Err(Stop::Cut) => Ok(()),
        Err(stop) => Err(stop),
    }
}

/// Sends and reads at the same time; the service sends back what it gets.
fn echo_at_once(plan: &Plan, connection: &mut Connection, ours: Bytes) -> Result<(), Stop> {
    let mut sender = connection.try_clone()?;
    thread::scope(|scope| {
        let send = || sender.send(ours, plan.up).and_then(|()| sender.finish());
        let sending = crate::small_thread().spawn_scoped(scope, send).map_err(|_| Stop::Cut)?;
        let received = connection.receive(ours, 0, plan.up, plan.pause).and_then(|()| connection.expect_end());
        let sent = sending.join().expect("no panic");
        // The received bytes say more.
        received.and(sent)
    })
}

/// The service sends how much has arrived, and ends.
fn expect_answer(plan: &Plan, connection: &mut Connection) -> Result<(), Stop> {
    let mut answer = [0; 16];
    let count = connection.read_full(&mut answer)?;
    if count < answer.len() {
        return Err(Stop::Early { after: count as u64, of: answer.len() as u64 });
    }
    if answer[..8] != plan.client.to_be_bytes() || answer[8..] != plan.up.to_be_bytes() {
        return Err(Stop::Wrong(format!("the answer {answer:?}")));
    }
    connection.expect_end()
}
