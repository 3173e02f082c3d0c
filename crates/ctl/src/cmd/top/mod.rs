//! `top`: the members of a cluster at a glance, again and again: who leads, how fast, how large, and what is
//! wrong in words. On a terminal it draws a screen; elsewhere, or with `--once`, it prints.
//!
//! [`sample`] asks, [`view`] turns answers into text, [`screen`] owns the terminal. Nothing here changes
//! anything in the cluster.

mod sample;
mod screen;
mod view;

use std::io::IsTerminal;
use std::time::Duration;

use crate::exit::{self, Failure};
use crate::output::Form;
use crate::report;
use crate::session::Session;
use ferrite_cli::flags::Values;
use sample::Looker;
use screen::{Key, Screen};

/// More often would measure the measuring.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// What the flags ask for.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    interval: Duration,
    once: bool,
    cluster: bool,
}

/// Understands the flags.
pub fn plan(values: &Values, words: &super::Words) -> Result<Plan, Failure> {
    if !words.is_empty() {
        return Err(Failure::args("top command accepts no arguments"));
    }
    let interval = values.duration("interval");
    if interval < INTERVAL_MIN {
        return Err(Failure::args("--interval must be 100ms at least"));
    }
    Ok(Plan {
        interval,
        once: values.bool("once"),
        cluster: values.bool("cluster"),
    })
}

/// `top`.
pub async fn run(session: &Session, plan: Plan) -> Result<(), Failure> {
    let json = match session.printer.form {
        Form::Simple => false,
        Form::Json => true,
        _ => return Err(session.printer.unsupported()),
    };
    let mut looker = Looker::new(session, plan.cluster);
    if plan.once || json || !std::io::stdout().is_terminal() {
        return print(&mut looker, plan, json).await;
    }
    live(&mut looker, plan).await
}

/// Prints what is seen: rates need two looks.
async fn print(looker: &mut Looker<'_>, plan: Plan, json: bool) -> Result<(), Failure> {
    let mut before = looker.look().await?;
    loop {
        tokio::time::sleep(plan.interval).await;
        let now = looker.look().await?;
        let text = if json {
            view::json(&before, &now)
        } else {
            view::text(&before, &now)
        };
        report::out(text.as_bytes());
        if plan.once {
            if now.answering() == 0 {
                return Err(Failure::new(exit::ERROR, "no member answers"));
            }
            return Ok(());
        }
        if !json {
            report::out(b"\n");
        }
        before = now;
    }
}

async fn live(looker: &mut Looker<'_>, plan: Plan) -> Result<(), Failure> {
    let mut now = looker.look().await?;
    let mut screen = Screen::new()
        .map_err(|e| Failure::new(exit::ERROR, format!("cannot use this terminal: {e}")))?;
    let mut before = now.clone();
    loop {
        screen.draw(&view::text(&before, &now), plan.interval);
        let next = async {
            tokio::time::sleep(plan.interval).await;
            looker.look().await
        };
        tokio::select! {
            key = screen.key() => match key {
                Key::Quit => return Ok(()),
                // The next drawing fits a window of another size.
                Key::Other => {}
            },
            next = next => before = std::mem::replace(&mut now, next?),
        }
    }
}
