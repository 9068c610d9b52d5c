//! Crowds of concurrent users.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};

use crate::answer::Answer;
use crate::http::ApiClient;
use crate::{LIMIT, eventually};

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

/// Like [`rush`], but users whose answer is 503 claim again, through the same API, until they get
/// another answer.
pub async fn rush_until_answered(
    apis: &[&ApiClient],
    coupon: i64,
    users: &[String],
    at_once: usize,
) -> Vec<(String, Answer)> {
    let mut answers = rush(apis, coupon, users, at_once).await;
    for (at, (user, answer)) in answers.iter_mut().enumerate() {
        if matches!(answer, Answer::Problem(503, _)) {
            *answer = apis[at % apis.len()].until_answered(coupon, user).await;
        }
    }
    answers
}

/// Lets users repeat their claims, alternating between the current APIs, until each gets a slot or
/// `sold_out`.
pub async fn rush_until_settled(
    apis: impl Fn() -> Vec<ApiClient>,
    coupon: i64,
    mut users: Vec<String>,
    at_once: usize,
) {
    eventually("everybody has an answer", 5 * LIMIT, async || {
        let apis = apis();
        let apis: Vec<&ApiClient> = apis.iter().collect();
        let answers = rush(&apis, coupon, &users, at_once).await.into_iter();
        let left =
            answers.filter(|(_, answer)| answer.promised().is_none() && !answer.is("sold_out"));
        users = left.map(|(user, _)| user).collect();
        users.is_empty()
    })
    .await;
}

/// Fails unless this many users were promised a slot, and all others got `sold_out`.
pub fn assert_sold_out(answers: &[(String, Answer)], quantity: usize) {
    let promises = answers.iter().filter(|(_, it)| it.promised().is_some());
    let refusals = answers.iter().filter(|(_, it)| it.is("sold_out"));
    let found = [promises.count(), refusals.count()];
    let counted = tally(answers);
    assert_eq!(found, [quantity, answers.len() - quantity], "{counted:?}");
}

/// Counts the answers by word.
pub fn tally(answers: &[(String, Answer)]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for (_, answer) in answers {
        *tally.entry(answer.word().to_owned()).or_default() += 1;
    }
    tally
}
