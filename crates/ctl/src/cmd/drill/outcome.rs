//! What a drill came to, as a table for people and as JSON for scripts.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::output::json::escape;
use ferrite_cli::frame;

/// How many lost keys are named.
const LOST_SHOWN: usize = 5;

/// One member was away.
pub struct StepOutcome {
    /// What was done.
    pub step: &'static str,
    /// To whom.
    pub member: String,
    /// How long it took to end.
    pub ended: Duration,
    /// For how long no write succeeded.
    pub writes: Duration,
    /// For how long no read did.
    pub reads: Duration,
    /// For how long none did before, at most.
    pub usual: Duration,
    /// Whether both went on while it was away.
    pub resumed: bool,
    /// Who led before.
    pub led_before: String,
    /// Who led while it was away.
    pub led_after: String,
    /// From its start until it read through the quorum.
    pub back: Duration,
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Attempts to write and to read that failed.
    pub refused: (usize, usize),
    /// Why.
    pub errors: BTreeMap<String, usize>,
}

/// The whole drill.
pub struct Outcome {
    /// In order.
    pub steps: Vec<StepOutcome>,
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// By member, what of that it does not have.
    pub lost: Vec<(String, Vec<String>)>,
    /// Since when who led, in which term.
    pub leaders: Vec<(Duration, String, u64)>,
}

fn ms(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

impl Outcome {
    /// What was not as it should be.
    pub fn verdict(&self, limit: Duration) -> Option<String> {
        if self.lost.iter().any(|(_, lost)| !lost.is_empty()) {
            return Some("acknowledged writes are lost".to_owned());
        }
        if let Some(step) = self.steps.iter().find(|step| !step.resumed) {
            return Some(format!(
                "{}: writes and reads did not go on while {} was away",
                step.step, step.member
            ));
        }
        let slow = self
            .steps
            .iter()
            .find(|step| !limit.is_zero() && step.writes > limit);
        slow.map(|step| {
            format!(
                "{}: writes were refused for {}, more than {}",
                step.step,
                ms(step.writes),
                ms(limit)
            )
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let header = [
            "step",
            "member",
            "gone after",
            "writes refused",
            "reads refused",
            "led before",
            "led while away",
            "back after",
            "acknowledged",
            "failed",
        ];
        let rows: Vec<Vec<String>> = self
            .steps
            .iter()
            .map(|step| {
                vec![
                    step.step.to_owned(),
                    step.member.clone(),
                    ms(step.ended),
                    ms(step.writes),
                    ms(step.reads),
                    step.led_before.clone(),
                    step.led_after.clone(),
                    ms(step.back),
                    step.acknowledged.to_string(),
                    (step.refused.0 + step.refused.1).to_string(),
                ]
            })
            .collect();
        let mut out = frame::render(&header, &rows);
        let usual = self.steps.iter().map(|step| step.usual).max();
        out.push_str(&format!(
            "Refused: the longest time without a success around the step; with nobody away it was {} at most.\n",
            ms(usual.unwrap_or_default())
        ));
        let leaders: Vec<String> = self
            .leaders
            .iter()
            .map(|(at, name, term)| format!("{name} from {:.1} s (term {term})", at.as_secs_f64()))
            .collect();
        out.push_str(&format!("Leaders: {}.\n", leaders.join(", ")));
        for step in &self.steps {
            for (error, count) in &step.errors {
                out.push_str(&format!("{}: {count} times: {error}\n", step.step));
            }
        }
        if self.lost.iter().all(|(_, lost)| lost.is_empty()) {
            let names: Vec<&str> = self.lost.iter().map(|(name, _)| &name[..]).collect();
            out.push_str(&format!(
                "Nothing is lost: all {} acknowledged writes are on {}.\n",
                self.acknowledged,
                names.join(", ")
            ));
        }
        for (name, lost) in self.lost.iter().filter(|(_, lost)| !lost.is_empty()) {
            let shown: Vec<&str> = lost.iter().take(LOST_SHOWN).map(String::as_str).collect();
            out.push_str(&format!(
                "LOST: {} of {} acknowledged writes are not on {name}: {} …\n",
                lost.len(),
                self.acknowledged,
                shown.join(", ")
            ));
        }
        out
    }

    /// For scripts: one object in one line. Times are in milliseconds.
    pub fn json(&self) -> String {
        let steps: Vec<String> = self
            .steps
            .iter()
            .map(|step| {
                format!(
                    "{{\"step\":\"{}\",\"member\":{},\"goneAfterMs\":{},\"writesRefusedMs\":{},\"readsRefusedMs\":{},\
                     \"usualGapMs\":{},\"resumed\":{},\"ledBefore\":{},\"ledWhileAway\":{},\"backAfterMs\":{},\
                     \"acknowledged\":{},\"failedWrites\":{},\"failedReads\":{}}}",
                    step.step,
                    escape(&step.member),
                    step.ended.as_millis(),
                    step.writes.as_millis(),
                    step.reads.as_millis(),
                    step.usual.as_millis(),
                    step.resumed,
                    escape(&step.led_before),
                    escape(&step.led_after),
                    step.back.as_millis(),
                    step.acknowledged,
                    step.refused.0,
                    step.refused.1,
                )
            })
            .collect();
        let leaders: Vec<String> = self
            .leaders
            .iter()
            .map(|(at, name, term)| {
                let at = at.as_millis();
                format!(
                    "{{\"fromMs\":{at},\"member\":{},\"term\":{term}}}",
                    escape(name)
                )
            })
            .collect();
        let lost: Vec<String> = self
            .lost
            .iter()
            .map(|(name, lost)| format!("{}:{}", escape(name), lost.len()))
            .collect();
        format!(
            "{{\"steps\":[{}],\"leaders\":[{}],\"acknowledged\":{},\"lost\":{{{}}}}}\n",
            steps.join(","),
            leaders.join(","),
            self.acknowledged,
            lost.join(",")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        let at = Duration::from_millis;
        Outcome {
            steps: vec![StepOutcome {
                step: "leader-kill",
                member: "a".to_owned(),
                ended: at(3),
                writes: at(1500),
                reads: at(1400),
                usual: at(25),
                resumed: true,
                led_before: "a".to_owned(),
                led_after: "b".to_owned(),
                back: at(200),
                acknowledged: 50,
                refused: (3, 4),
                errors: BTreeMap::from([("etcdserver: no leader".to_owned(), 7)]),
            }],
            acknowledged: 50,
            lost: vec![("a".to_owned(), Vec::new()), ("b".to_owned(), Vec::new())],
            leaders: vec![(at(0), "a".to_owned(), 2), (at(4100), "b".to_owned(), 3)],
        }
    }

    #[test]
    fn a_good_one() {
        let outcome = outcome();
        let text = outcome.text();
        assert!(
            text.contains("│ leader-kill │      a │       3 ms │        1500 ms │"),
            "{text}"
        );
        assert!(text.contains("Leaders: a from 0.0 s (term 2), b from 4.1 s (term 3).\n"));
        assert!(text.contains("leader-kill: 7 times: etcdserver: no leader\n"));
        assert!(text.ends_with("Nothing is lost: all 50 acknowledged writes are on a, b.\n"));
        assert_eq!(outcome.verdict(Duration::ZERO), None);
        assert_eq!(outcome.verdict(Duration::from_secs(2)), None);
        assert_eq!(
            outcome.verdict(Duration::from_secs(1)).as_deref(),
            Some("leader-kill: writes were refused for 1500 ms, more than 1000 ms")
        );
        assert!(outcome.json().contains("\"lost\":{\"a\":0,\"b\":0}"));
    }

    #[test]
    fn a_loss_is_said_aloud() {
        let mut outcome = outcome();
        outcome.lost[1].1.push("k1".to_owned());
        let text = outcome.text();
        assert!(
            text.contains("LOST: 1 of 50 acknowledged writes are not on b: k1"),
            "{text}"
        );
        assert!(!text.contains("Nothing is lost"));
        assert_eq!(
            outcome.verdict(Duration::ZERO).as_deref(),
            Some("acknowledged writes are lost")
        );
        outcome.lost.clear();
        outcome.steps[0].resumed = false;
        assert!(
            outcome
                .verdict(Duration::ZERO)
                .unwrap()
                .contains("did not go on")
        );
    }
}
