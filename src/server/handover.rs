//! One gateway's listeners handed to the next, so that no client finds nobody there: over a socket that only the same user may
//! speak at, once the next one is ready to accept.
//!
//! Whoever has the listeners goes on until the next one says that it serves; if that one dies before, nothing has happened.
//! Pingora's own transfer has the new process wait at a socket that everybody may write to, and asks nothing of either side.

use std::collections::HashMap;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg};
use tokio::net::UnixListener;

/// How long the other side may take for its next word. The new process checks its chains and builds its services before it is
/// ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// More listeners than a gateway has.
const SOCKETS_MAX: usize = 16;

/// Longest list of names.
const NAMES_BYTES_MAX: usize = 4096;

/// The new process serves.
const READY: u8 = b'R';

/// The old one accepts nothing more, and its socket is gone.
const DONE: u8 = b'D';

/// Listeners by the service they are for.
pub type Sockets = Vec<(&'static str, OwnedFd)>;

/// Where the next process asks for the listeners.
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
    sockets: Sockets,
}

/// Listeners that another process had, and its word that it waits for ours.
pub struct Taken {
    listeners: HashMap<String, TcpListener>,
    stream: UnixStream,
}

impl Door {
    /// Waits at a path for the next process. Must run inside a runtime.
    ///
    /// # Errors
    /// When something else is there, or a gateway that is still alive.
    pub fn open(path: &Path, sockets: Sockets) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
            Ok(_) if UnixStream::connect(path).is_ok() => return Err(io::ErrorKind::AddrInUse.into()),
            // Left by a process that was killed.
            Ok(_) => fs::remove_file(path)?,
            Err(_absent) => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_path_buf(), sockets })
    }

    /// Until the next process has the listeners and serves.
    pub async fn handed_over(mut self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match self.hand_to(stream).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!(%error, "The listeners were not handed over; everything goes on as before.");
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "Nobody can be let in at the socket for upgrades.");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn hand_to(&mut self, stream: tokio::net::UnixStream) -> io::Result<()> {
        let mut stream = stream.into_std()?;
        blocking(&stream)?;
        check_peer(&stream)?;
        tracing::info!("Another gateway asks for the listeners.");
        let names: Vec<&str> = self.sockets.iter().map(|(name, _)| *name).collect();
        let sockets: Vec<OwnedFd> = self.sockets.iter().map(|(_, fd)| fd.try_clone()).collect::<io::Result<_>>()?;
        let names = names.join("\n");
        let waiting = move || {
            send(&stream, names.as_bytes(), &sockets)?;
            expect(&mut stream, READY)?;
            Ok::<_, io::Error>(stream)
        };
        let mut stream = tokio::task::spawn_blocking(waiting).await.map_err(io::Error::other)??;
        // The next process opens its own at the same place, which is not this one's to clear any more.
        let _gone = fs::remove_file(std::mem::take(&mut self.path));
        // It serves already: if it can't hear this any more, somebody will start another.
        let _told = stream.write_all(&[DONE]);
        Ok(())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

impl Taken {
    /// Asks the gateway that waits at a path for its listeners; none if nobody does.
    ///
    /// # Errors
    /// When somebody else waits there, or it gives nothing that can be used.
    pub fn ask(path: &Path) -> io::Result<Option<Self>> {
        let stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        blocking(&stream)?;
        check_peer(&stream)?;
        let listeners = receive(&stream)?.into_iter().map(|(name, fd)| (name, TcpListener::from(fd))).collect();
        Ok(Some(Self { listeners, stream }))
    }

    /// The listener of a service, if it is at this address.
    pub(super) fn listener(&mut self, name: &str, address: SocketAddr) -> Option<TcpListener> {
        let bound = self.listeners.get(name)?.local_addr().ok()?;
        let is_there = bound.ip() == address.ip() && (address.port() == 0 || bound.port() == address.port());
        self.listeners.remove(name).filter(|_| is_there)
    }

    /// Says that this process serves, and waits until the other accepts nothing more. Blocks.
    ///
    /// # Errors
    /// When the other one is gone, and so are the requests that it had.
    pub fn ready(mut self) -> io::Result<()> {
        self.stream.write_all(&[READY])?;
        expect(&mut self.stream, DONE)
    }
}

fn blocking(stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// Only a process of the same user, whatever the file's mode.
fn check_peer(stream: &UnixStream) -> io::Result<()> {
    let peer = getsockopt(stream, PeerCredentials)?.uid();
    // What one process of ours says to itself has its own user.
    let (own, _other) = UnixStream::pair()?;
    if peer == getsockopt(&own, PeerCredentials)?.uid() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {peer} is another one")))
}

fn expect(stream: &mut UnixStream, word: u8) -> io::Result<()> {
    let mut heard = [0; 1];
    stream.read_exact(&mut heard)?;
    if heard == [word] { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn send(stream: &UnixStream, names: &[u8], sockets: &[OwnedFd]) -> io::Result<()> {
    let raw: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    let parts = [IoSlice::new(names)];
    let sent =
        sendmsg::<()>(stream.as_raw_fd(), &parts, &[ControlMessage::ScmRights(&raw)], MsgFlags::MSG_NOSIGNAL, None)?;
    if sent == names.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn receive(stream: &UnixStream) -> io::Result<Vec<(String, OwnedFd)>> {
    let mut bytes = [0; NAMES_BYTES_MAX];
    let mut control = nix::cmsg_space!([RawFd; SOCKETS_MAX]);
    let mut sockets = Vec::new();
    let count = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
        for word in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = word {
                // SAFETY: the kernel made these descriptors for this process just now, and nobody else knows them.
                sockets.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        message.bytes
    };
    let names = bytes.get(..count).and_then(|names| std::str::from_utf8(names).ok()).unwrap_or_default();
    let names: Vec<String> = names.split('\n').map(str::to_owned).collect();
    if names.len() != sockets.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "listeners and their names don't match"));
    }
    Ok(names.into_iter().zip(sockets).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn listeners_go_to_the_next_process_once_it_says_that_it_serves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("up.sock");
        assert!(Taken::ask(&path).unwrap().is_none());
        let (proxy, address) = listener();
        let door = Door::open(&path, vec![("proxy", proxy.into())]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let handing = tokio::spawn(door.handed_over());
        let ask = |path: PathBuf| tokio::task::spawn_blocking(move || Taken::ask(&path).unwrap().unwrap());
        // One that dies before it is ready.
        drop(ask(path.clone()).await.unwrap());
        let mut taken = ask(path.clone()).await.unwrap();
        assert!(!handing.is_finished());
        assert!(taken.listener("admin", address).is_none());
        let inherited = taken.listener("proxy", address).unwrap();
        tokio::task::spawn_blocking(move || taken.ready().unwrap()).await.unwrap();
        handing.await.unwrap();
        assert!(!path.exists());
        let next = Door::open(&path, Vec::new()).unwrap();
        assert!(std::net::TcpStream::connect(address).is_ok() && inherited.accept().is_ok());
        drop(next);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_door_takes_no_place_but_that_of_a_process_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("up.sock");
        fs::write(&path, "mine").unwrap();
        assert!(Door::open(&path, Vec::new()).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let open = Door::open(&path, Vec::new()).unwrap();
        assert!(Door::open(&path, Vec::new()).is_err(), "one that lives");
        drop(open);
    }

    #[tokio::test]
    async fn a_listener_at_another_address_is_not_taken() {
        let (one, address) = listener();
        let (stream, _other) = UnixStream::pair().unwrap();
        let mut taken = Taken { listeners: HashMap::from([("proxy".to_owned(), one)]), stream };
        let elsewhere = SocketAddr::new(address.ip(), address.port().wrapping_add(1).max(1));
        assert!(taken.listener("proxy", elsewhere).is_none());
    }
}
