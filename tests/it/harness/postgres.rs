//! A PostgreSQL of a test's own, with its own files, on a port of its own.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::free_port;

/// What must not be seen anywhere.
pub const PASSWORD: &str = "s3cret-of-the-books";

/// Nothing here takes longer to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    user: Option<(u32, u32)>,
    settings: Vec<String>,
    port: u16,
    server: Option<Child>,
}

impl Postgres {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With these settings, each as `name=value`.
    pub async fn start_with(settings: &[&str]) -> Self {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let folder = tempfile::tempdir().unwrap();
        let mut postgres = Self { folder, programs: programs(), user: unprivileged(), settings, port: 0, server: None };
        postgres.initialize();
        postgres.up().await;
        postgres
    }

    /// Where gateways find it.
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The same through another port.
    pub fn url_at(&self, port: u16) -> String {
        format!("postgres://tollhouse:{PASSWORD}@127.0.0.1:{port}/postgres")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    fn initialize(&self) {
        let password = self.folder.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        if let Some((uid, gid)) = self.user {
            for path in [self.folder.path(), password.as_path()] {
                chown(path, Some(uid), Some(gid)).unwrap();
            }
        }
        std::fs::set_permissions(self.folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let mut initdb = self.program("initdb");
        initdb.args(["--username=tollhouse", "--auth=scram-sha-256", "--no-sync", "--no-instructions", "--locale=C"]);
        initdb.args(["--encoding=UTF8", "--pwfile"]).arg(&password).arg("--pgdata").arg(self.data());
        let done = initdb.output().unwrap();
        assert!(done.status.success(), "initdb: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Starts the server, on the same port as before if it ran before.
    pub async fn up(&mut self) {
        for _ in 0..5 {
            if self.port == 0 {
                self.port = free_port();
            }
            if self.try_up().await {
                return;
            }
            self.port = 0;
        }
        panic!("PostgreSQL did not start: {}", self.log());
    }

    async fn try_up(&mut self) -> bool {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data()).args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-k", ""]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let mut server = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if server.try_wait().unwrap().is_some() {
                return false;
            }
            let asked =
                self.program("pg_isready").args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]).status();
            if asked.unwrap().success() {
                self.server = Some(server);
                return true;
            }
            assert!(Instant::now() < deadline, "PostgreSQL is not ready: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends the server at once, as a crash would: nothing is flushed, no client is told.
    pub fn down(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let pid = libc::pid_t::try_from(server.id()).unwrap();
        // SAFETY: takes plain integers; the child has not been waited for, so the id is still its own.
        unsafe { libc::kill(pid, libc::SIGQUIT) };
        server.wait().unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.down();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- PostgreSQL's last lines ---\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
    }
}

/// Where its programs are: in the path, or where Debian puts the newest version.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = debian.map(|entry| entry.path().join("bin")).collect();
    versions.sort_by_key(|bin| version_of(bin));
    let is_whole = |bin: &PathBuf| ["initdb", "postgres", "pg_isready"].iter().all(|name| bin.join(name).is_file());
    let found = versions.into_iter().rev().chain(std::env::split_paths(&path)).find(is_whole);
    found.expect("PostgreSQL is needed: apt-get install postgresql")
}

fn version_of(bin: &Path) -> u32 {
    let version = bin.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    version.and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// PostgreSQL refuses to run as root: then it runs as the user that its package made, or as nobody.
fn unprivileged() -> Option<(u32, u32)> {
    // SAFETY: takes and changes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    let id = |option: &str, user: &str| {
        let output = Command::new("id").args([option, user]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().ok()
    };
    let ids = ["postgres", "nobody"].into_iter().find_map(|user| Some((id("-u", user)?, id("-g", user)?)));
    Some(ids.expect("PostgreSQL doesn't run as root, and there is no user postgres or nobody"))
}
