// Creates a coupon of 3, claims it as 5 users, and fails unless exactly 3 get it. The types in api.d.ts are generated:
//
//   set -a; . ../../target/run/env; set +a
//   npm ci && npm run generate && npm run compile && npm start
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

const QUANTITY = 3;
const operator = { Authorization: `Bearer ${process.env.OPS_TOKEN}` };
const api = createClient<paths>({ baseUrl: process.env.API_URL });

const coupon: components["schemas"]["NewCouponBody"] = {
  name: "TypeScript",
  quantity: QUANTITY,
  once_per: "coupon",
  waiting_list: 0,
  schedule: { type: "once", opens_at: "2026-01-01T00:00:00Z" },
};

// Repeats a request while the system is unavailable.
async function repeat<T extends { response: Response }>(send: () => Promise<T>): Promise<T> {
  for (;;) {
    const answer = await send();
    if (answer.response.status !== 503) return answer;
    const seconds = Number(answer.response.headers.get("Retry-After") ?? 1);
    await new Promise((resume) => setTimeout(resume, 1000 * seconds));
  }
}

// With the same key, a retry creates no second coupon.
const header = { "Idempotency-Key": crypto.randomUUID() };
const created = await repeat(() => api.POST("/v1/coupons", { params: { header }, body: coupon, headers: operator }));
if (!created.data) throw new Error(`no coupon was created: ${JSON.stringify(created.error)}`);
const path = { id: created.data.id };

// A retry is always safe: a user gets at most one slot, however often the claim is sent.
async function claim(user: string): Promise<string> {
  const headers = { "X-User-Id": user };
  const { data, error } = await repeat(() => api.POST("/v1/coupons/{id}/claims", { params: { path }, headers }));
  return data ? data.status : error.code;
}

const answers: Record<string, number> = {};
for (let user = 1; user <= QUANTITY + 2; user += 1) {
  const answer = await claim(`typescript-${user}`);
  answers[answer] = (answers[answer] ?? 0) + 1;
}
console.log("TypeScript:", answers);
if (answers.accepted !== QUANTITY || answers.sold_out !== 2) process.exit(1);
