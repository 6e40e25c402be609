//! The gateway's process.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use super::http::Call;

/// Nothing here takes longer to start or to be killed.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Gateway {
    child: Child,
    /// Open, for its directory may go before the process does.
    log: File,
    /// Where in the log this process begins.
    log_start: u64,
    /// What it was given and must never say.
    secrets: Vec<String>,
}

impl Gateway {
    /// Runs the binary, or a shell that limits itself first and then becomes the binary.
    pub fn spawn(config: &Path, environment: &[(&str, String)], limit: Option<&str>) -> Self {
        Self::spawn_binary(Path::new(env!("CARGO_BIN_EXE_tollhouse")), config, environment, limit)
    }

    /// As `spawn`, of this binary.
    pub fn spawn_binary(binary: &Path, config: &Path, environment: &[(&str, String)], limit: Option<&str>) -> Self {
        let mut command = match limit {
            None => Command::new(binary),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("{limit}; exec \"$0\" \"$@\"")]).arg(binary);
                shell
            }
        };
        let log = config.with_file_name("gateway.log");
        let output = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let log = File::open(&log).unwrap();
        let log_start = output.metadata().unwrap().len();
        command.args(["run", "--config"]).arg(config);
        command.env_remove("FAILPOINTS");
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command.envs(environment.iter().map(|(name, value)| (*name, value)));
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let is_secret = |name: &str| ["SIGNER", "KEY", "PASSWORD", "TOKEN"].iter().any(|word| name.contains(word));
        let secrets = environment.iter().filter(|(name, value)| is_secret(name) && value.len() >= 12);
        let secrets = secrets.map(|(_, value)| value.to_lowercase()).collect();
        Self { child: command.spawn().unwrap(), log, log_start, secrets }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn is_alive(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    pub async fn wait_end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "the gateway did not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the path on the operator's listener is 200; false if the process ended before.
    pub async fn wait_ok(&mut self, admin_port: u16, path: &str) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while self.ended().is_none() {
            if Call::local(path).send(admin_port).await.is_ok_and(|answer| answer.status == 200) {
                return true;
            }
            assert!(Instant::now() < deadline, "the gateway is not {path}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// As `kill -9`.
    pub fn kill(&mut self) {
        let _gone_already = self.child.kill();
        self.child.wait().unwrap();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        self.signal(libc::SIGHUP);
    }

    /// SIGSTOP: as a machine that hangs.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: takes plain integers; the child has not been waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// What it said since it started.
    pub fn log(&self) -> String {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = &self.log;
        file.seek(SeekFrom::Start(self.log_start)).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the gateway's last lines ---\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        } else {
            // Every test is one of this too.
            let log = self.log().to_lowercase();
            assert!(
                !self.secrets.iter().any(|secret| log.contains(secret)),
                "a secret of its own is in the gateway's log"
            );
        }
    }
}
