//! A terminal that is drawn anew again and again, and gives keys. What it was before comes back in every
//! case, also after Ctrl-C: signals are waited for, not suffered.

use std::io::{self, IsTerminal, Read, Write};
use std::time::Duration;

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Where a terminal does not say how large it is.
const SIZE: (usize, usize) = (24, 80);
/// The other page of the terminal, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const CTRL_C: u8 = 0x03;

/// What was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// It is enough.
    Quit,
    /// Anything else.
    Other,
}

/// The terminal.
pub struct Screen {
    before: Option<Termios>,
    keys: mpsc::Receiver<u8>,
    /// Without keys nobody else holds the other end.
    _sender: mpsc::Sender<u8>,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    resize: Signal,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// The system's answer.
    pub fn new() -> io::Result<Self> {
        let (sender, keys) = mpsc::channel(16);
        let screen = Self {
            before: keys_mode(),
            keys,
            _sender: sender.clone(),
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            resize: signal(SignalKind::window_change())?,
        };
        if screen.before.is_some() {
            // It ends with the program: a thread that reads a terminal cannot be woken.
            std::thread::spawn(move || {
                let mut key = [0];
                while let Ok(1) = io::stdin().lock().read(&mut key) {
                    if sender.blocking_send(key[0]).is_err() {
                        return;
                    }
                }
            });
        }
        write(ENTER);
        Ok(screen)
    }

    /// Draws a page; what does not fit is cut off.
    pub fn draw(&mut self, text: &str, interval: Duration) {
        let (rows, columns) = size();
        let title = format!(
            "etcdctl top   every {}   q ends it",
            crate::gofmt::duration(interval)
        );
        let mut out = String::from("\x1b[H");
        for (number, line) in std::iter::once(title.as_str())
            .chain(text.lines())
            .take(rows)
            .enumerate()
        {
            if number > 0 {
                out.push_str("\r\n");
            }
            let cut: String = line.chars().take(columns).collect();
            let style = match number {
                0 => "\x1b[7m",
                _ if line.starts_with("NAME ") => "\x1b[1m",
                _ if line.starts_with("Note: ") || line.ends_with(" AWAY") => "\x1b[31m",
                _ => "",
            };
            out.push_str(&format!("{style}{cut}\x1b[0m\x1b[K"));
        }
        out.push_str("\x1b[J");
        write(&out);
    }

    /// The next key, or a signal that says the same.
    pub async fn key(&mut self) -> Key {
        tokio::select! {
            key = self.keys.recv() => match key {
                Some(b'q' | b'Q' | CTRL_C) => Key::Quit,
                _ => Key::Other,
            },
            _ = self.interrupt.recv() => Key::Quit,
            _ = self.terminate.recv() => Key::Quit,
            _ = self.hangup.recv() => Key::Quit,
            _ = self.resize.recv() => Key::Other,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        write(LEAVE);
        if let Some(before) = &self.before {
            // If that fails the terminal is gone.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Keys one by one, and not shown; `None` where standard input is no terminal.
fn keys_mode() -> Option<Termios> {
    if !io::stdin().is_terminal() {
        return None;
    }
    let before = tcgetattr(io::stdin()).ok()?;
    let mut raw = before.clone();
    raw.local_modes
        .remove(LocalModes::ECHO | LocalModes::ICANON);
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
    Some(before)
}

fn size() -> (usize, usize) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => SIZE,
    }
}

fn write(text: &str) {
    let mut out = io::stdout().lock();
    // A terminal that is gone ends the program by its signal.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
