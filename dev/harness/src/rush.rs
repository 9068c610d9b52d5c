//! Crowds of concurrent users.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};

use crate::answer::Answer;
use crate::http::ApiClient;

pub fn people(number: usize) -> Vec<String> {
    (1..=number).map(|n| format!("u-{n}")).collect()
}

/// Lets each user claim once, with at most `at_once` concurrent claims, alternating between the
/// given APIs. Returns the answers in the order of `users`.
pub fn rush(
    apis: &[&ApiClient],
    coupon: i64,
    users: &[String],
    at_once: usize,
) -> impl Future<Output = Vec<(String, Answer)>> + Send + use<> {
    let claims: Vec<(String, ApiClient)> = users
        .iter()
        .zip(apis.iter().cycle())
        .map(|(user, api)| (user.clone(), (*api).clone()))
        .collect();
    let claims = claims
        .into_iter()
        .enumerate()
        .map(move |(at, (user, api))| async move {
            // One task per claim, so that a claim in flight does not depend on when this stream is
            // polled.
            let task = tokio::spawn(async move { (api.claim(coupon, &user).await, user) });
            let (answer, user) = task.await.unwrap();
            (at, (user, answer))
        });
    async move {
        let claims = stream::iter(claims).buffer_unordered(at_once);
        let mut answers: Vec<(usize, (String, Answer))> = claims.collect().await;
        answers.sort_unstable_by_key(|(at, _)| *at);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }
}

/// Counts the answers by word.
pub fn tally(answers: &[(String, Answer)]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for (_, answer) in answers {
        *tally.entry(answer.word().to_owned()).or_default() += 1;
    }
    tally
}
