//! Real programs through the tunnel, where they are installed; `scripts/packages-for-tests` names their packages.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::device::Device;
use crate::common::pairing::Pairing;
use crate::common::relay::Relay;
use crate::common::service::Service;
use crate::common::{eventually, pattern};

/// How long a program may take.
const LIMIT: Duration = Duration::from_secs(180);

/// A tunnel to a service, and where its clients connect.
struct Tunnel {
    _relay: Relay,
    _device: Device,
    clients: SocketAddr,
    _service: Service,
}

impl Tunnel {
    fn to(service: Service) -> Self {
        let (relay, device, clients) = Pairing::NEW.start(&[service.address()]);
        Self { _relay: relay, _device: device, clients: clients[0], _service: service }
    }

    fn port(&self) -> String {
        self.clients.port().to_string()
    }
}

/// Whether all of these can be run.
fn installed(programs: &[&str]) -> bool {
    let paths = std::env::var("PATH").unwrap() + ":/usr/sbin:/sbin";
    let found = |program: &&str| paths.split(':').any(|path| Path::new(path).join(program).exists());
    let missing: Vec<_> = programs.iter().filter(|program| !found(program)).collect();
    #[allow(clippy::print_stderr, reason = "a missing program is to be seen in the output")]
    if !missing.is_empty() {
        eprintln!("skipped, since these are not installed: {missing:?}");
    }
    missing.is_empty()
}

/// Runs a command to its end, which must be a good one.
fn run(command: &mut Command) -> Output {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let shown = format!("{command:?}");
    // What it writes must be read while it runs.
    let (done, waiting) = std::sync::mpsc::channel();
    let process = child.id();
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reading = [Box::new(stdout) as Box<dyn std::io::Read + Send>, Box::new(stderr)].map(|mut pipe| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            bytes
        })
    });
    thread::spawn(move || done.send(child.wait().unwrap()));
    let status = waiting.recv_timeout(LIMIT).unwrap_or_else(|_| {
        // It is ours, and was not waited for yet.
        let _ = Command::new("kill").arg(process.to_string()).status();
        panic!("{shown} does not end");
    });
    let [stdout, stderr] = reading.map(|reader| reader.join().unwrap());
    assert!(status.success(), "{shown}: {status}: {}", String::from_utf8_lossy(&stderr));
    Output { status, stdout, stderr }
}

/// Files of many sizes in directories, one of them large.
fn grow_tree(root: &Path) {
    for (number, size) in [0, 1, 1000, 65_536, 300_000, 5 << 20].into_iter().enumerate() {
        let directory = root.join(format!("directory {}", number & 1));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(format!("file {number}")), pattern(size, number as u64)).unwrap();
    }
}

/// Every file below `root` but those of git itself, in order, with its bytes.
fn tree(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                files.push((path.strip_prefix(root).unwrap().to_owned(), fs::read(path).unwrap()));
            } else if !path.ends_with(".git") {
                directories.push(path);
            }
        }
    }
    files.sort();
    files
}

/// An SSH server of its own, for the user that runs the tests, and the key that opens it.
struct Ssh {
    home: TempDir,
}

impl Ssh {
    fn new() -> Self {
        let home = TempDir::new().unwrap();
        for key in ["host_key", "user_key"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(home.path().join(key)));
        }
        fs::copy(home.path().join("user_key.pub"), home.path().join("authorized_keys")).unwrap();
        let at = home.path().display();
        let config = format!(
            "HostKey {at}/host_key\nAuthorizedKeysFile {at}/authorized_keys\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nPermitRootLogin yes\nLogLevel ERROR\n"
        );
        fs::write(home.path().join("sshd_config"), config).unwrap();
        // Where root runs it, it wants this directory, which else the system's own server makes.
        let _ = fs::create_dir("/run/sshd");
        Self { home }
    }

    fn server(&self) -> Service {
        let config = self.home.path().join("sshd_config");
        Service::program(move || {
            let mut sshd = Command::new("/usr/sbin/sshd");
            sshd.args(["-i", "-e", "-f"]).arg(&config);
            sshd
        })
    }

    /// The client's command line up to the host, as one text for a shell.
    fn client(&self, tunnel: &Tunnel) -> String {
        let at = self.home.path().display();
        format!(
            "ssh -F /dev/null -p {} -i {at}/user_key -o BatchMode=yes -o IdentitiesOnly=yes -o LogLevel=ERROR \
             -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
            tunnel.port()
        )
    }
}

fn shell(text: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", text]);
    command
}

#[test]
fn netcat_that_ends_its_sending_gets_its_answer() {
    if !installed(&["nc"]) {
        return;
    }
    let tunnel = Tunnel::to(Service::count());
    let output = run(&mut shell(&format!("printf 'one request' | nc -N 127.0.0.1 {}", tunnel.port())));
    assert_eq!(output.stdout, b"11 bytes\n");
}

#[test]
fn netcat_and_cat_give_each_other_a_file() {
    if !installed(&["nc"]) {
        return;
    }
    // The service sends what it has first, and ends once its client has.
    let home = TempDir::new().unwrap();
    let (down, up) = (pattern(1 << 20, 1), pattern(1 << 20, 2));
    fs::write(home.path().join("down"), &down).unwrap();
    fs::write(home.path().join("up"), &up).unwrap();
    let at = home.path().to_owned();
    let service = Service::program(move || {
        let mut cat = shell("cat down; cat >received; mv received whole");
        cat.current_dir(&at);
        cat
    });
    let tunnel = Tunnel::to(service);
    let text = format!("nc -N 127.0.0.1 {} <up >downloaded", tunnel.port());
    run(shell(&text).current_dir(home.path()));
    assert!(fs::read(home.path().join("downloaded")).unwrap() == down);
    eventually("the upload is whole", LIMIT, || home.path().join("whole").exists());
    assert!(fs::read(home.path().join("whole")).unwrap() == up);
}

#[test]
fn ssh_runs_commands_and_carries_bytes_both_ways() {
    if !installed(&["ssh", "sshd", "ssh-keygen"]) {
        return;
    }
    let ssh = Ssh::new();
    let tunnel = Tunnel::to(ssh.server());
    let client = ssh.client(&tunnel);
    let output = run(&mut shell(&format!("{client} 127.0.0.1 'echo it works; echo and so does this >&2'")));
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"it works\n"[..], &b"and so does this\n"[..]));
    let bytes = pattern(4 << 20, 3);
    let file = ssh.home.path().join("bytes");
    fs::write(&file, &bytes).unwrap();
    let output = run(&mut shell(&format!("{client} 127.0.0.1 cat <'{}'", file.display())));
    assert!(output.stdout == bytes, "{} of {} bytes", output.stdout.len(), bytes.len());
}

#[test]
fn git_clones_and_pushes_over_ssh() {
    if !installed(&["ssh", "sshd", "ssh-keygen", "git"]) {
        return;
    }
    let ssh = Ssh::new();
    let tunnel = Tunnel::to(ssh.server());
    let home = ssh.home.path();
    let (origin, clone) = (home.join("origin"), home.join("clone"));
    git_repository(&origin);
    let git = |directory: &Path| {
        let mut git = git(directory);
        git.env("GIT_SSH_COMMAND", ssh.client(&tunnel));
        git
    };
    run(git(home)
        .args(["clone", "-q"])
        .arg(format!("ssh://127.0.0.1:{}{}", tunnel.port(), origin.display()))
        .arg(&clone));
    assert_eq!(tree(&clone), tree(&origin));
    fs::write(clone.join("new"), pattern(2 << 20, 9)).unwrap();
    commit_all(&clone);
    run(git(&clone).args(["push", "-q", "origin", "HEAD:refs/heads/pushed"]));
    let head = |directory: &Path, name: &str| run(git(directory).args(["rev-parse", name])).stdout;
    assert_eq!(head(&origin, "pushed"), head(&clone, "HEAD"));
}

#[test]
fn git_clones_from_its_own_daemon() {
    if !installed(&["git"]) {
        return;
    }
    let home = TempDir::new().unwrap();
    let (origin, clone) = (home.path().join("origin"), home.path().join("clone"));
    git_repository(&origin);
    let base = home.path().to_owned();
    let daemon = Service::program(move || {
        let mut daemon = git(&base);
        daemon.args(["daemon", "--inetd", "--export-all"]).arg(format!("--base-path={}", base.display()));
        daemon
    });
    let tunnel = Tunnel::to(daemon);
    run(git(home.path()).args(["clone", "-q", &format!("git://127.0.0.1:{}/origin", tunnel.port())]).arg(&clone));
    assert_eq!(tree(&clone), tree(&origin));
}

/// git without the configuration of a user.
fn git(directory: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(directory).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", directory);
    git.args(["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "safe.directory=*"]);
    git
}

fn git_repository(at: &Path) {
    grow_tree(at);
    run(git(at).args(["init", "-q"]));
    commit_all(at);
}

fn commit_all(at: &Path) {
    run(git(at).args(["add", "--all"]));
    run(git(at).args(["commit", "-q", "-m", "all of it"]));
}

#[test]
fn rsync_copies_a_tree_over_ssh_in_both_directions() {
    if !installed(&["ssh", "sshd", "ssh-keygen", "rsync"]) {
        return;
    }
    let ssh = Ssh::new();
    let tunnel = Tunnel::to(ssh.server());
    let home = ssh.home.path();
    let [source, there, back] = ["source", "there", "back"].map(|name| home.join(name));
    grow_tree(&source);
    fs::set_permissions(source.join("directory 0"), fs::Permissions::from_mode(0o750)).unwrap();
    let rsync = |from: &str, to: &str| {
        run(Command::new("rsync").args(["--archive", "--checksum", "-e", &ssh.client(&tunnel), from, to]));
    };
    rsync(&format!("{}/", source.display()), &format!("127.0.0.1:{}/", there.display()));
    rsync(&format!("127.0.0.1:{}/", there.display()), &format!("{}/", back.display()));
    let files = tree(&source);
    assert_eq!(files.len(), 6);
    assert!(tree(&there) == files && tree(&back) == files);
}
