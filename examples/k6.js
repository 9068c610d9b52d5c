// A rush with k6 (https://k6.io): each iteration is a new user who claims until the answer is final, at most 30 times. Fails unless exactly
// QUANTITY are accepted and all other users get `sold_out`. With `make run` in another terminal:
//
//   set -a; . target/run/env; set +a
//   k6 run examples/k6.js
//
// Settings: API_URLS (comma-separated) and OPS_TOKEN, as target/run/env has them; QUANTITY, PEOPLE, CONNECTIONS, as `rush` has them.
import exec from "k6/execution";
import http from "k6/http";
import { sleep } from "k6";
import { Counter, Trend } from "k6/metrics";

const APIS = __ENV.API_URLS.split(",");
const QUANTITY = Number(__ENV.QUANTITY || 100);
const PEOPLE = Number(__ENV.PEOPLE || 10000);

const accepted = new Counter("accepted");
const soldOut = new Counter("sold_out");
const other = new Counter("other");
const winners = new Trend("winners_duration", true);

export const options = {
  scenarios: {
    rush: { executor: "shared-iterations", vus: Number(__ENV.CONNECTIONS || 256), iterations: PEOPLE, maxDuration: "5m" },
  },
  thresholds: {
    accepted: [`count==${QUANTITY}`],
    sold_out: [`count==${PEOPLE - QUANTITY}`],
    other: ["count==0"],
  },
  summaryTrendStats: ["med", "p(99)", "max"],
};

// 409 is `sold_out`, and 503 asks for a retry: neither is a failed request.
http.setResponseCallback(http.expectedStatuses(200, 202, 409, 503));

export function setup() {
  const coupon = { name: "k6", quantity: QUANTITY, once_per: "coupon", waiting_list: 0, schedule: { type: "once", opens_at: "2026-01-01T00:00:00Z" } };
  const prefix = `k6-${Date.now().toString(36)}`;
  // With the same key, a retry creates no second coupon.
  const headers = { Authorization: `Bearer ${__ENV.OPS_TOKEN}`, "Content-Type": "application/json", "Idempotency-Key": prefix };
  const create = () => http.post(`${APIS[0]}/v1/coupons`, JSON.stringify(coupon), { headers });
  let created = create();
  while (created.status === 503) {
    sleep(1);
    created = create();
  }
  const id = created.json("id");
  if (!id) exec.test.abort(`no coupon was created: ${created.status} ${created.body}`);
  // Each API reads new coupons several times in a second.
  for (const api of APIS) while (http.get(`${api}/v1/coupons/${id}`).status !== 200) sleep(0.05);
  return { id, prefix };
}

export default function ({ id, prefix }) {
  const iteration = exec.scenario.iterationInTest;
  const url = `${APIS[iteration % APIS.length]}/v1/coupons/${id}/claims`;
  const user = { headers: { "X-User-Id": `${prefix}-${iteration}` }, tags: { name: "claim" } };
  let answer;
  // A retry is always safe: a user who already has a slot gets the same one.
  for (let attempt = 0; attempt < 30; attempt += 1) {
    answer = http.post(url, null, user);
    if (answer.status !== 503 && answer.status !== 0) break;
    sleep(Number(answer.headers["Retry-After"] || 1));
  }
  const result = answer.body ? answer.json("status") : undefined;
  if (result === "accepted" || result === "already_claimed") {
    accepted.add(1);
    winners.add(answer.timings.duration);
  } else if (answer.status === 409 && answer.json("code") === "sold_out") {
    soldOut.add(1);
  } else {
    other.add(1);
    console.error(`${answer.status} ${answer.error} ${answer.body}`);
  }
}
