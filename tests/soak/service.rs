//! The service behind the device: it does what the client's request says, and judges what it sees.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crate::bytes::{Bytes, Way};
use crate::connection::{Connection, Stop};
use crate::plan::{Kind, Plan, Request};
use crate::report::{Outcome, Report};

/// A service that serves every connection on a thread of its own, to the end of the process.
#[derive(Debug)]
pub(crate) struct Service {
    address: SocketAddr,
    /// Of each connection, whether it is to be reset.
    open: Arc<Mutex<Vec<Weak<AtomicBool>>>>,
}

impl Service {
    pub(crate) fn start(report: Arc<Report>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let service = Self { address: listener.local_addr()?, open: Arc::default() };
        let open = Arc::clone(&service.open);
        let accept = move || {
            for stream in listener.incoming().flatten() {
                let doomed = Arc::new(AtomicBool::new(false));
                {
                    let mut open = open.lock().expect("no panic");
                    open.retain(|connection| connection.strong_count() > 0);
                    open.push(Arc::downgrade(&doomed));
                }
                let report = Arc::clone(&report);
                // Without a thread it is closed, which its client sees.
                let _ = crate::small_thread().spawn(move || serve(stream, doomed, &report));
            }
        };
        crate::small_thread().spawn(accept)?;
        Ok(service)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets every connection whose place is drawn.
    pub(crate) fn reset(&self, mut drawn: impl FnMut() -> bool) {
        for connection in self.open.lock().expect("no panic").iter().filter_map(Weak::upgrade) {
            if drawn() {
                connection.store(true, Relaxed);
            }
        }
    }

    /// Connections that are served now.
    pub(crate) fn connections(&self) -> usize {
        self.open.lock().expect("no panic").iter().filter(|connection| connection.strong_count() > 0).count()
    }
}

fn serve(stream: TcpStream, doomed: Arc<AtomicBool>, report: &Report) {
    let Ok(mut connection) = Connection::new(stream, doomed) else { return };
    let mut request: Request = [0; size_of::<Request>()];
    let plan = match connection.read_full(&mut request) {
        // A client that left.
        Ok(0) => return,
        Ok(count) if count < request.len() => {
            if !report.killed_lately() {
                report.violation(format!("a service was sent FIN after {count} bytes of a request"));
            }
            return;
        }
        Ok(_) => Plan::parse(&request),
        Err(Stop::Hung { .. }) => return report.violation("a service was sent no request".into()),
        Err(_) => return connection.reset(),
    };
    let Some(plan) = plan else { return report.violation(format!("a request that no client has sent: {request:?}")) };
    let result = act(&plan, &mut connection, report);
    if result == Err(Stop::Doomed) {
        connection.reset();
    }
    // Its client is the one that is counted.
    let _: Outcome = report.judge("service", &plan, result);
}

fn act(plan: &Plan, connection: &mut Connection, report: &Report) -> Result<(), Stop> {
    let ours = Bytes::new(plan.client, Way::ToClient);
    let theirs = Bytes::new(plan.client, Way::ToService);
    match plan.kind {
        Kind::Upload | Kind::SlowService => {
            connection.receive(theirs, 0, plan.up, plan.pause)?;
            connection.expect_end()?;
            report.count_up(plan.up);
            connection.write(&[plan.client.to_be_bytes(), plan.up.to_be_bytes()].concat())?;
            connection.finish()
        }
        Kind::Download | Kind::SlowReader | Kind::HalfClose => {
            connection.send(ours, plan.down)?;
            connection.finish()?;
            connection.expect_end()
        }
        Kind::Echo | Kind::PingPong | Kind::Idle => {
            echo(connection, theirs, plan.up)?;
            report.count_up(plan.up);
            connection.finish()
        }
        Kind::ServiceFirst => {
            connection.send(ours, plan.down)?;
            connection.finish()?;
            connection.receive(theirs, 0, plan.up, Duration::ZERO)?;
            connection.expect_end()?;
            report.count_up(plan.up);
            Ok(())
        }
        Kind::ClientReset => match echo(connection, theirs, plan.up) {
            Ok(()) | Err(Stop::Early { .. }) => Err(Stop::Ended),
            Err(stop) => Err(stop),
        },
        Kind::ServiceReset => {
            connection.send(ours, plan.cut)?;
            connection.reset();
            Ok(())
        }
        Kind::Leave | Kind::Refused | Kind::Unresolved => Err(Stop::Wrong("this client has no service".into())),
    }
}

/// Sends back what comes, to the end, which must be behind `total` bytes.
fn echo(connection: &mut Connection, bytes: Bytes, total: u64) -> Result<(), Stop> {
    let mut chunk = vec![0; 32 * 1024];
    let mut offset = 0;
    loop {
        let count = connection.read(offset, &mut chunk)?;
        if count == 0 {
            return if offset == total { Ok(()) } else { Err(Stop::Early { after: offset, of: total }) };
        }
        if let Some(wrong) = bytes.check(offset, &chunk[..count]) {
            return Err(Stop::Wrong(wrong));
        }
        connection.write(&chunk[..count])?;
        offset += count as u64;
    }
}
