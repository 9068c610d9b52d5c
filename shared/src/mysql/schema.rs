//! The tables that `migrations/` creates; the migrations document the meaning and invariants of
//! each column.

diesel::table! {
    coupons (id) {
        id -> BigInt,
        name -> Text,
        quantity -> Unsigned<Integer>,
        once_per -> Text,
        waiting_list -> Unsigned<Integer>,
        paused -> Bool,
        schedule -> Nullable<Text>,
        revision -> Unsigned<BigInt>,
        era -> Unsigned<BigInt>,
        created_at -> Datetime,
        allow_rule -> Nullable<Text>,
        allow_list_revision -> Unsigned<BigInt>,
        allow_list_people -> Unsigned<Integer>,
        allow_list_changed_at -> Nullable<Datetime>,
        idempotency_key -> Nullable<Text>,
        body_hash -> Nullable<Binary>,
    }
}

diesel::table! {
    drops (id) {
        id -> BigInt,
        coupon_id -> BigInt,
        local_date -> Nullable<Date>,
        opens_at -> Datetime,
        closes_at -> Nullable<Datetime>,
        quantity -> Unsigned<Integer>,
        created_at -> Datetime,
        sealed_at -> Nullable<Datetime>,
        sealed_rows -> Nullable<Unsigned<Integer>>,
        closed_early -> Bool,
        codes_erased_at -> Nullable<Datetime>,
    }
}

diesel::table! {
    issued_coupons (drop_id, slot) {
        drop_id -> BigInt,
        slot -> Unsigned<Integer>,
        coupon_id -> BigInt,
        user_id -> Text,
        code -> Text,
        claimed_at -> Datetime,
        issued_at -> Datetime,
        issued_by -> Text,
        traceparent -> Nullable<Text>,
    }
}

diesel::table! {
    revoked_coupons (id) {
        id -> BigInt,
        coupon_id -> BigInt,
        drop_id -> BigInt,
        slot -> Nullable<Unsigned<Integer>>,
        user_id -> Text,
        code -> Nullable<Text>,
        claimed_at -> Nullable<Datetime>,
        issued_at -> Nullable<Datetime>,
        issued_by -> Nullable<Text>,
        reason -> Text,
        revoked_by -> Text,
        may_claim_again -> Bool,
        revoked_at -> Datetime,
        again_from -> Nullable<Datetime>,
    }
}

diesel::table! {
    failed_claims (id) {
        id -> BigInt,
        coupon_id -> Nullable<BigInt>,
        drop_id -> Nullable<BigInt>,
        slot -> Nullable<BigInt>,
        user_id -> Nullable<Text>,
        claimed_at -> Nullable<Datetime>,
        payload -> Nullable<Blob>,
        reason -> Text,
        error -> Nullable<Text>,
        attempts -> Unsigned<Integer>,
        failed_at -> Datetime,
        source_partition -> Nullable<Integer>,
        source_offset -> Nullable<BigInt>,
        source_hash -> Nullable<Binary>,
        resolved_at -> Nullable<Datetime>,
        resolution -> Nullable<Text>,
        resolution_detail -> Nullable<Text>,
        resolved_by_run -> Nullable<Text>,
        traceparent -> Nullable<Text>,
    }
}

diesel::table! {
    reconcile_runs (id) {
        id -> Text,
        triggered_by -> Text,
        dry_run -> Bool,
        deep -> Bool,
        confirmed -> Bool,
        status -> Text,
        owner -> Text,
        started_at -> Datetime,
        finished_at -> Nullable<Datetime>,
        drops_examined -> Unsigned<Integer>,
        users_examined -> BigInt,
        rows_examined -> BigInt,
        failed_claims_examined -> BigInt,
        attempted -> Unsigned<Integer>,
        applied -> Unsigned<Integer>,
        skipped -> Unsigned<Integer>,
        failed -> Unsigned<Integer>,
        error -> Nullable<Text>,
        drops -> Nullable<Text>,
        content -> Nullable<BigInt>,
        same_as -> Nullable<Text>,
        asked_by -> Nullable<Text>,
    }
}

diesel::table! {
    reconcile_findings (id) {
        id -> BigInt,
        run_id -> Text,
        coupon_id -> Nullable<BigInt>,
        drop_id -> Nullable<BigInt>,
        kind -> Text,
        slot -> Nullable<BigInt>,
        user_id -> Nullable<Text>,
        action -> Text,
        result -> Text,
        detail -> Nullable<Text>,
        needs_person -> Bool,
        created_at -> Datetime,
        dead_letter -> Nullable<BigInt>,
    }
}

diesel::table! {
    broken_promises (drop_id, user_id) {
        drop_id -> BigInt,
        user_id -> Text,
        coupon_id -> BigInt,
        slot -> Nullable<BigInt>,
        reason -> Text,
        run_id -> Text,
        created_at -> Datetime,
        mended_at -> Nullable<Datetime>,
    }
}

diesel::table! {
    held_back (drop_id) {
        drop_id -> BigInt,
        repairs -> Unsigned<Integer>,
        fingerprint -> Unsigned<BigInt>,
        run_id -> Text,
        planned_at -> Datetime,
    }
}

diesel::table! {
    alerts (id) {
        id -> BigInt,
        name -> Text,
        kind -> Text,
        coupon_id -> Nullable<BigInt>,
        drop_id -> Nullable<BigInt>,
        status -> Text,
        summary -> Text,
        size -> Unsigned<BigInt>,
        content -> BigInt,
        first_seen_at -> Datetime,
        last_seen_at -> Datetime,
        last_mailed_at -> Nullable<Datetime>,
        mails -> Unsigned<Integer>,
        resolved_at -> Nullable<Datetime>,
        acknowledged_at -> Nullable<Datetime>,
        acknowledged_by -> Nullable<Text>,
    }
}

diesel::table! {
    repairs (run_id, drop_id, kind) {
        run_id -> Text,
        drop_id -> BigInt,
        kind -> Text,
        number -> Unsigned<Integer>,
        repaired_at -> Datetime,
        mailed_at -> Nullable<Datetime>,
    }
}

diesel::table! {
    outbox (id) {
        id -> BigInt,
        created_at -> Datetime,
        channel -> Text,
        kind -> Text,
        batch -> Text,
        target -> Text,
        subject -> Text,
        thread -> Nullable<Text>,
        body -> Text,
        html -> Nullable<Text>,
        attempts -> Unsigned<Integer>,
        next_attempt_at -> Datetime,
        leased_until -> Nullable<Datetime>,
        sent_at -> Nullable<Datetime>,
        given_up_at -> Nullable<Datetime>,
        last_error -> Nullable<Text>,
    }
}

diesel::table! {
    reconciler_state (name) {
        name -> Text,
        value -> Text,
        updated_at -> Datetime,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    coupons,
    drops,
    issued_coupons,
    failed_claims,
    reconcile_runs,
    reconcile_findings,
    broken_promises,
    alerts,
    outbox,
    repairs,
    reconciler_state,
);
