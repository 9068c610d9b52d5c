"""A rush with Locust (https://locust.io): new users claim until the answer is final, each at most 30 times. Fails unless
exactly QUANTITY are accepted and all other users get `sold_out`. With `make run` in another terminal:

    set -a; . target/run/env; set +a
    locust --locustfile examples/locustfile.py --headless --users 256 --spawn-rate 256 --only-summary

With `--processes 4`, or `--master`, `--expect-workers N` and workers on other machines, all of them claim the same coupon.

Settings: API_URLS (comma-separated) and OPS_TOKEN, as target/run/env has them; QUANTITY, PEOPLE, as `rush` has them.
"""

import itertools
import os
import time
from collections import Counter

import gevent
import requests
from locust import FastHttpUser, constant, events, task
from locust.runners import MasterRunner, WorkerRunner

APIS = os.environ["API_URLS"].split(",")
QUANTITY = int(os.environ.get("QUANTITY", 100))
PEOPLE = int(os.environ.get("PEOPLE", 10_000))

answers = Counter()
# The coupon, and which users this process is. A worker gets it from the master.
rush = {}


@events.init.add_listener
def listen(environment, **_):
    if isinstance(environment.runner, WorkerRunner):
        environment.runner.register_message("rush", lambda environment, msg, **_: begin(environment, msg.data))


def begin(environment, data):
    index = environment.runner.worker_index if isinstance(environment.runner, WorkerRunner) else 0
    rush.update(data, people=itertools.count(index, data["processes"]))


@events.test_start.add_listener
def create_coupon(environment, **_):
    if isinstance(environment.runner, WorkerRunner):
        return
    prefix = f"locust-{int(time.time())}"
    body = {"name": "Locust", "quantity": QUANTITY, "once_per": "coupon", "waiting_list": 0,
            "schedule": {"type": "once", "opens_at": "2026-01-01T00:00:00Z"}}
    # With the same key, a retry creates no second coupon.
    headers = {"Authorization": f"Bearer {os.environ['OPS_TOKEN']}", "Idempotency-Key": prefix}
    while True:
        created = requests.post(f"{APIS[0]}/v1/coupons", json=body, headers=headers, timeout=10)
        if created.status_code != 503:
            break
        time.sleep(1)
    created.raise_for_status()
    coupon = created.json()["id"]
    # Each API reads new coupons several times in a second.
    for api in APIS:
        while requests.get(f"{api}/v1/coupons/{coupon}", timeout=10).status_code != 200:
            time.sleep(0.05)
    data = {"coupon": coupon, "prefix": prefix, "processes": 1}
    if isinstance(environment.runner, MasterRunner):
        data["processes"] = environment.runner.worker_count
        environment.runner.send_message("rush", data)
    else:
        begin(environment, data)
    gevent.spawn(quit_after_the_last_answer, environment.runner)


def quit_after_the_last_answer(runner):
    while sum(answers.values()) < PEOPLE:
        time.sleep(0.1)
    runner.quit()


@events.report_to_master.add_listener
def send_answers(client_id, data, **_):
    data["answers"] = dict(answers)
    answers.clear()


@events.worker_report.add_listener
def add_answers(client_id, data, **_):
    answers.update(data.get("answers", {}))


class Crowd(FastHttpUser):
    host = APIS[0]
    wait_time = constant(0)

    @task
    def claim(self):
        person = next(rush["people"]) if rush else PEOPLE
        if person >= PEOPLE:
            time.sleep(0.1)
            return
        url = f"{APIS[person % len(APIS)]}/v1/coupons/{rush['coupon']}/claims"
        # A retry is always safe: a user who already has a slot gets the same one.
        for _ in range(30):
            with self.client.post(url, headers={"X-User-Id": f"{rush['prefix']}-{person}"}, name="claim", catch_response=True) as answer:
                if answer.status_code in (0, 503):
                    answer.failure("repeated")
                    time.sleep(float(answer.headers.get("Retry-After", 1) if answer.headers else 1))
                    continue
                body = answer.json()
                # In a problem, `code` names the reason, and `status` is a number.
                result = body.get("code") or body["status"]
                answers["accepted" if result == "already_claimed" else result] += 1
                answer.success()
                return
        answers["no answer"] += 1


@events.quitting.add_listener
def compare(environment, **_):
    if isinstance(environment.runner, WorkerRunner):
        return
    print(f"answers: {dict(answers)}")
    wanted = {"accepted": QUANTITY, "sold_out": PEOPLE - QUANTITY}
    environment.process_exit_code = 0 if answers == {k: n for k, n in wanted.items() if n} else 1
