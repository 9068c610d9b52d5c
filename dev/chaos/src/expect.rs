//! Expectations besides an exact result: answers while a fault is active, log lines, and the
//! process that wrote the rows.

use std::collections::HashSet;
use std::path::Path;

use firstcome_harness::Answer;

use crate::clients::Answered;
use crate::inject::TriedFault;

pub use crate::schedule::Expect;

/// Minimum number of answers during a fault. Fewer answers prove nothing.
const ENOUGH: usize = 3;

/// The observations of a run.
pub(crate) struct Evidence<'a> {
    pub(crate) answers: &'a [Answered],
    pub(crate) hits: &'a [TriedFault],
    pub(crate) logs: &'a Path,
    /// Number of failed claims, plus the number of rows that the consumer did not write.
    pub(crate) not_by_consumer: u64,
}

impl Expect {
    /// Returns why the expectation is not met (the text may be empty), or `None` if it is met.
    pub(crate) fn missing(&self, shown: &Evidence<'_>) -> Option<String> {
        let is_no = |answer: &Answer| answer.is("unavailable");
        let admits = |answer: &Answer| {
            answer.is_accepted() || matches!(answer, Answer::Problem(500.., _) | Answer::Unknown(_))
        };
        let met = match self {
            Self::Unavailable => return shown.all_meanwhile(is_no, |_| true),
            Self::NoPromise => return shown.all_meanwhile(is_no, |it| !it.is("sold_out")),
            Self::Queued => return shown.all_meanwhile(|it| queued(it) == Some(true), admits),
            Self::Unqueued => return shown.all_meanwhile(|it| queued(it) == Some(false), admits),
            Self::Refused(code) => {
                let counts =
                    |it: &Answer| it.is_accepted() || matches!(it, Answer::Problem(..500, _));
                return shown.all_meanwhile(|it| it.is(code), counts);
            }
            Self::Refusals => shown.answers.iter().any(|answered| is_no(&answered.answer)),
            Self::AdmittedUnheard => shown.some_first_yes_is_a_repeat(),
            Self::ByConsumer => shown.not_by_consumer == 0,
            Self::Logged(text) => logged(shown.logs, text),
        };
        (!met).then(String::new)
    }
}

fn queued(answer: &Answer) -> Option<bool> {
    match answer {
        Answer::Accepted { queued, .. } => Some(*queued),
        _ => None,
    }
}

impl Evidence<'_> {
    /// Checks the answers that count, of requests that began and ended while a fault was active.
    /// All must fit, and there must be enough of them. Otherwise returns the reason.
    fn all_meanwhile(
        &self,
        fits: impl Fn(&Answer) -> bool,
        counts: impl Fn(&Answer) -> bool,
    ) -> Option<String> {
        let meanwhile = |answered: &&Answered| {
            let mut hits = self.hits.iter().map(|hit| &hit.during);
            hits.any(|at| at.start <= answered.asked && answered.answered <= at.end)
        };
        let answers = self.answers.iter().filter(meanwhile).map(|it| &it.answer);
        let answers: Vec<&Answer> = answers.filter(|answer| counts(answer)).collect();
        match answers.iter().find(|answer| !fits(answer)) {
            Some(other) => Some(format!("during the fault an answer was {other:?}")),
            None if answers.len() < ENOUGH => {
                Some(format!("only {} answers during the fault", answers.len()))
            }
            None => None,
        }
    }

    fn some_first_yes_is_a_repeat(&self) -> bool {
        let mut seen = HashSet::new();
        let promises = self.answers.iter();
        let promises = promises.filter(|answered| answered.answer.promised().is_some());
        let mut first = promises.filter(|answered| seen.insert(answered.person));
        first.any(|answered| matches!(answered.answer, Answer::Already { .. }))
    }
}

fn logged(folder: &Path, text: &str) -> bool {
    let mut files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.any(|file| {
        let log = std::fs::read(file.path()).unwrap_or_default();
        String::from_utf8_lossy(&log).contains(text)
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Returns whether the expectation is met if these answers came during a fault, each to a
    /// different user. If there is only one answer, the consumer did not write its row.
    fn is_met(expect: &Expect, answers: &[Answer]) -> bool {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let hit = TriedFault {
            name: String::new(),
            point: None,
            fault: String::new(),
            took: true,
            note: String::new(),
            during: at(0)..at(1_000),
        };
        let answered = |(n, answer): (u32, &Answer)| Answered {
            person: (0, n),
            asked: at(1),
            answered: at(2),
            answer: answer.clone(),
        };
        let answers: Vec<Answered> = (0..).zip(answers).map(answered).collect();
        let logs = tempfile::tempdir().unwrap();
        std::fs::write(logs.path().join("01-consumer"), "it could not be written").unwrap();
        let shown = Evidence {
            answers: &answers,
            hits: &[hit],
            logs: logs.path(),
            not_by_consumer: u64::from(answers.len() == 1),
        };
        expect.missing(&shown).is_none()
    }

    #[test]
    fn each_expectation_accepts_only_matching_evidence() {
        use Expect::{
            AdmittedUnheard, ByConsumer, Logged, NoPromise, Queued, Refusals, Refused, Unavailable,
            Unqueued,
        };
        let accepted = |queued| Answer::Accepted {
            drop: 1,
            slot: 1,
            queued,
        };
        let no = Answer::Problem(503, "unavailable".into());
        let closed = Answer::Problem(410, "closed".into());
        let [yes, late, no, closed] =
            [accepted(true), accepted(false), no, closed].map(|answer| vec![answer; 3]);
        let again = vec![Answer::Already { drop: 1, slot: 1 }];
        let mixed = [&yes[..], &no[..]].concat();
        for (expect, shown, other) in [
            (Unavailable, &no, &yes),
            (Unavailable, &no, &mixed),
            (Refusals, &no, &yes),
            (Refused("closed".into()), &closed, &yes),
            (NoPromise, &no, &again),
            (Queued, &yes, &late),
            (Queued, &yes, &mixed),
            (Unqueued, &late, &yes),
            (AdmittedUnheard, &again, &yes),
            (ByConsumer, &yes, &again),
        ] {
            assert!(is_met(&expect, shown), "{expect:?}");
            assert!(!is_met(&expect, other), "{expect:?}");
        }
        assert!(is_met(&Logged("not be written".into()), &yes));
        assert!(!is_met(&Logged("Deadlock".into()), &yes));
        assert!(!is_met(&Queued, &yes[..2]), "too few answers");
    }
}
