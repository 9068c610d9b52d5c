//! Expectations besides an exact result: answers while a fault is active, log lines, and the
//! process that wrote the rows.

use std::collections::HashSet;
use std::path::Path;

use firstcome_testkit::Answer;
use serde::{Deserialize, Serialize};

use crate::evidence::{Answered, Evidence};

/// Minimum number of answers during a fault. Fewer answers prove nothing.
const ENOUGH: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Every claim gets `unavailable` while a fault is active.
    Unavailable,
    /// No user is promised a slot while a fault is active.
    NoPromise,
    /// Some claims get `unavailable`.
    Refusals,
    /// No user is admitted while a fault is active, and every user without a slot gets this code.
    Refused(String),
    /// Users are admitted while a fault is active, and Kafka acknowledges each claim in time.
    Queued,
    /// Users are admitted while a fault is active, and Kafka acknowledges no claim in time.
    Unqueued,
    /// At least one claim was admitted although its answer was lost or negative. Its retry gets
    /// `already_claimed`.
    AdmittedUnheard,
    /// The consumer wrote every row, and no claim failed.
    ByConsumer,
    /// The log of a process contains this text.
    Logged(String),
}

impl Expect {
    /// Describes the expectation if it is not met.
    pub(crate) fn missing(&self, shown: &Evidence<'_>) -> Option<String> {
        match self {
            Self::Unavailable => {
                shown.all_meanwhile("unavailable", |answer| answer.is("unavailable"), |_| true)
            }
            Self::NoPromise => shown.all_meanwhile(
                "refused",
                |answer| answer.is("unavailable"),
                |answer| !answer.is("sold_out"),
            ),
            Self::Queued => shown.all_meanwhile(
                "admitted",
                |answer| queued(answer) == Some(true),
                is_refusal_or_admission,
            ),
            Self::Unqueued => shown.all_meanwhile(
                "admitted unqueued",
                |answer| queued(answer) == Some(false),
                is_refusal_or_admission,
            ),
            Self::Refused(code) => shown.all_meanwhile(
                code,
                |answer| answer.is(code),
                |answer| answer.is_accepted() || matches!(answer, Answer::Problem(..500, _)),
            ),
            Self::Refusals => {
                let refused = shown
                    .answers
                    .iter()
                    .any(|answered| answered.answer.is("unavailable"));
                (!refused).then(|| "no claim was answered `unavailable`".to_owned())
            }
            Self::AdmittedUnheard => (!shown.some_first_yes_is_a_repeat())
                .then(|| "no retry was answered `already_claimed`".to_owned()),
            Self::ByConsumer => {
                let number = shown.not_by_consumer;
                (number > 0).then(|| {
                    format!("{number} claims failed or have a row that the consumer did not write")
                })
            }
            Self::Logged(text) => {
                (!logged(shown.logs, text)).then(|| format!("no log says `{text}`"))
            }
        }
    }
}

fn queued(answer: &Answer) -> Option<bool> {
    if let Answer::Accepted { queued, .. } = answer {
        Some(*queued)
    } else {
        None
    }
}

fn is_refusal_or_admission(answer: &Answer) -> bool {
    answer.is_accepted() || matches!(answer, Answer::Problem(500.., _) | Answer::Unknown(_))
}

impl Evidence<'_> {
    /// Checks all relevant answers to requests that began and ended while a fault was active. All
    /// must match, and there must be enough of them.
    fn all_meanwhile(
        &self,
        word: &str,
        fits: impl Fn(&Answer) -> bool,
        counts: impl Fn(&Answer) -> bool,
    ) -> Option<String> {
        let on = |answered: &&Answered| {
            self.hits.iter().any(|hit| {
                hit.during.start <= answered.asked && answered.answered <= hit.during.end
            })
        };
        let answers = self
            .answers
            .iter()
            .filter(on)
            .map(|answered| &answered.answer);
        let (fitting, others): (Vec<_>, Vec<_>) = answers
            .filter(|answer| counts(answer))
            .partition(|answer| fits(answer));
        if let Some(other) = others.first() {
            return Some(format!(
                "not all were {word} during the fault: {} were {other:?}",
                others.len()
            ));
        }
        (fitting.len() < ENOUGH)
            .then(|| format!("only {} were {word} during the fault", fitting.len()))
    }

    fn some_first_yes_is_a_repeat(&self) -> bool {
        let mut seen = HashSet::new();
        let promises = self
            .answers
            .iter()
            .filter(|answered| answered.answer.promised().is_some());
        let mut first = promises.filter(|answered| seen.insert(answered.person));
        first.any(|answered| matches!(answered.answer, Answer::Already { .. }))
    }
}

fn logged(folder: &Path, text: &str) -> bool {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.into_iter().any(|file| {
        let log = std::fs::read(file.path()).unwrap_or_default();
        String::from_utf8_lossy(&log).contains(text)
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::evidence::TriedFault;

    fn accepted(queued: bool) -> Answer {
        Answer::Accepted {
            drop: 1,
            slot: 1,
            queued,
        }
    }

    fn refused() -> Answer {
        Answer::Problem(503, "unavailable".into())
    }

    /// Returns how the expectation fails if these answers came during a fault, each to a different
    /// user.
    fn missing(expect: &Expect, answers: &[Answer]) -> Option<String> {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let during = at(0)..at(1_000);
        let hits = [TriedFault {
            name: String::new(),
            fault: String::new(),
            took: true,
            note: String::new(),
            during,
        }];
        let people = (0..).zip(answers);
        let answers: Vec<Answered> = people
            .map(|(n, answer)| Answered {
                person: (0, n),
                asked: at(1),
                answered: at(2),
                answer: answer.clone(),
            })
            .collect();
        let logs = tempfile::tempdir().unwrap();
        std::fs::write(logs.path().join("01-consumer"), "it could not be written").unwrap();
        let not_by_consumer = u64::from(answers.len() == 1);
        expect.missing(&Evidence {
            answers: &answers,
            hits: &hits,
            logs: logs.path(),
            not_by_consumer,
        })
    }

    #[test]
    fn each_expectation_accepts_only_matching_evidence() {
        use Expect::{
            AdmittedUnheard, ByConsumer, Logged, NoPromise, Queued, Refusals, Refused, Unavailable,
            Unqueued,
        };
        let yes = vec![accepted(true); 3];
        let late = vec![accepted(false); 3];
        let no = vec![refused(); 3];
        let closed = vec![Answer::Problem(410, "closed".into()); 3];
        let again = vec![Answer::Already { drop: 1, slot: 1 }];
        let cases = [
            (Unavailable, &no, &yes),
            (Refusals, &no, &yes),
            (Refused("closed".into()), &closed, &yes),
            (NoPromise, &no, &again),
            (Queued, &yes, &late),
            (Unqueued, &late, &yes),
            (AdmittedUnheard, &again, &yes),
            (ByConsumer, &yes, &again),
        ];
        for (expect, shown, other) in cases {
            assert_eq!(missing(&expect, shown), None, "{expect:?}");
            assert!(missing(&expect, other).is_some(), "{expect:?}");
        }
        assert_eq!(missing(&Logged("not be written".into()), &yes), None);
        assert!(missing(&Logged("Deadlock".into()), &yes).is_some());
    }

    #[test]
    fn expectation_fails_on_one_wrong_answer_or_too_few_answers() {
        let mixed = [accepted(true), accepted(true), accepted(true), refused()];
        for expect in [Expect::Queued, Expect::Unavailable] {
            assert!(
                missing(&expect, &mixed).is_some_and(|why| why.contains("not all")),
                "{expect:?}"
            );
        }
        assert!(missing(&Expect::Queued, &mixed[..2]).is_some_and(|why| why.contains("only 2")));
    }
}
