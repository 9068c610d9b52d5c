// @generated automatically by Diesel CLI.

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    broken_promises (drop_id, user_id) {
        drop_id -> Bigint,
        #[max_length = 128]
        user_id -> Varchar,
        coupon_id -> Bigint,
        slot -> Nullable<Bigint>,
        #[max_length = 255]
        reason -> Varchar,
        #[max_length = 36]
        run_id -> Char,
        created_at -> Datetime,
        mended_at -> Nullable<Datetime>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    code_key (id) {
        id -> Tinyint,
        #[max_length = 32]
        secret -> Varbinary,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    coupon_allow_list (coupon_id, user_id) {
        coupon_id -> Bigint,
        #[max_length = 128]
        user_id -> Varchar,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    coupon_uses (drop_id, slot, claimed_at, reference) {
        drop_id -> Bigint,
        slot -> Unsigned<Integer>,
        claimed_at -> Datetime,
        #[max_length = 100]
        reference -> Varchar,
        #[max_length = 100]
        used_by -> Varchar,
        used_at -> Nullable<Datetime>,
        undone_at -> Nullable<Datetime>,
        in_use -> Nullable<Tinyint>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    coupons (id) {
        id -> Bigint,
        #[max_length = 200]
        name -> Varchar,
        quantity -> Unsigned<Integer>,
        #[max_length = 6]
        once_per -> Varchar,
        waiting_list -> Unsigned<Integer>,
        paused -> Bool,
        schedule -> Nullable<Json>,
        valid_until -> Nullable<Datetime>,
        valid_days -> Nullable<Unsigned<Integer>>,
        revision -> Unsigned<Bigint>,
        era -> Unsigned<Bigint>,
        #[max_length = 70]
        allow_rule -> Nullable<Varchar>,
        allow_list_revision -> Unsigned<Bigint>,
        allow_list_people -> Unsigned<Integer>,
        allow_list_changed_at -> Nullable<Datetime>,
        #[max_length = 255]
        idempotency_key -> Nullable<Varchar>,
        #[max_length = 32]
        body_hash -> Nullable<Binary>,
        created_at -> Datetime,
        #[max_length = 10]
        daily_until -> Nullable<Varchar>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    drops (id) {
        id -> Bigint,
        coupon_id -> Bigint,
        local_date -> Nullable<Date>,
        opens_at -> Datetime,
        closes_at -> Nullable<Datetime>,
        closed_early -> Bool,
        quantity -> Unsigned<Integer>,
        created_at -> Datetime,
        sealed_at -> Nullable<Datetime>,
        sealed_rows -> Nullable<Unsigned<Integer>>,
        codes_erased_at -> Nullable<Datetime>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    failed_claims (id) {
        id -> Bigint,
        coupon_id -> Nullable<Bigint>,
        drop_id -> Nullable<Bigint>,
        slot -> Nullable<Bigint>,
        #[max_length = 128]
        user_id -> Nullable<Varchar>,
        claimed_at -> Nullable<Datetime>,
        payload -> Nullable<Mediumblob>,
        #[max_length = 64]
        reason -> Varchar,
        error -> Nullable<Text>,
        attempts -> Unsigned<Integer>,
        failed_at -> Datetime,
        source_partition -> Nullable<Integer>,
        source_offset -> Nullable<Bigint>,
        #[max_length = 32]
        source_hash -> Nullable<Binary>,
        resolved_at -> Nullable<Datetime>,
        #[max_length = 64]
        resolution -> Nullable<Varchar>,
        resolution_detail -> Nullable<Text>,
        #[max_length = 36]
        resolved_by_run -> Nullable<Char>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    issued_coupons (drop_id, slot) {
        drop_id -> Bigint,
        slot -> Unsigned<Integer>,
        coupon_id -> Bigint,
        #[max_length = 128]
        user_id -> Varchar,
        #[max_length = 29]
        code -> Varchar,
        claimed_at -> Datetime,
        issued_at -> Datetime,
        #[max_length = 10]
        issued_by -> Varchar,
        slot_limit -> Unsigned<Integer>,
        person_scope -> Bigint,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    levels (name) {
        #[max_length = 100]
        name -> Varchar,
        #[max_length = 8]
        subject -> Varchar,
        #[max_length = 24]
        kind -> Varchar,
        coupon_id -> Nullable<Bigint>,
        drop_id -> Nullable<Bigint>,
        number -> Unsigned<Bigint>,
        #[max_length = 16000]
        cases -> Nullable<Varbinary>,
        facts -> Text,
        #[max_length = 36]
        run_id -> Char,
        first_at -> Datetime,
        last_at -> Datetime,
        given_up -> Bool,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    ops_actions (id) {
        id -> Bigint,
        at -> Datetime,
        #[max_length = 100]
        operator -> Nullable<Varchar>,
        #[max_length = 8]
        token -> Char,
        #[max_length = 45]
        from_addr -> Nullable<Varchar>,
        #[max_length = 32]
        action -> Varchar,
        coupon_id -> Nullable<Bigint>,
        drop_id -> Nullable<Bigint>,
        detail -> Json,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    outbox (id) {
        id -> Bigint,
        created_at -> Datetime,
        #[max_length = 8]
        channel -> Varchar,
        #[max_length = 24]
        kind -> Varchar,
        #[max_length = 64]
        batch -> Varchar,
        #[max_length = 320]
        target -> Varchar,
        #[max_length = 500]
        subject -> Varchar,
        thread -> Nullable<Text>,
        body -> Mediumtext,
        html -> Nullable<Mediumtext>,
        attempts -> Unsigned<Integer>,
        next_attempt_at -> Datetime,
        leased_until -> Nullable<Datetime>,
        sent_at -> Nullable<Datetime>,
        given_up_at -> Nullable<Datetime>,
        last_error -> Nullable<Text>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    processes (id) {
        #[max_length = 32]
        id -> Char,
        #[max_length = 16]
        role -> Varchar,
        #[max_length = 200]
        owner -> Varchar,
        #[max_length = 64]
        redis_prefix -> Nullable<Varchar>,
        #[max_length = 249]
        topic -> Varchar,
        #[max_length = 249]
        consumer_group -> Varchar,
        publish_deadline_ms -> Bigint,
        fallback_deadline_ms -> Bigint,
        state -> Nullable<Text>,
        has_readers -> Bool,
        seen_at -> Datetime,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    reconcile_findings (id) {
        id -> Bigint,
        #[max_length = 36]
        run_id -> Char,
        coupon_id -> Nullable<Bigint>,
        drop_id -> Nullable<Bigint>,
        #[max_length = 24]
        kind -> Varchar,
        slot -> Nullable<Bigint>,
        #[max_length = 128]
        user_id -> Nullable<Varchar>,
        #[max_length = 32]
        action -> Varchar,
        #[max_length = 16]
        result -> Varchar,
        detail -> Text,
        dead_letter -> Nullable<Bigint>,
        #[max_length = 255]
        cause -> Varchar,
        needs_person -> Bool,
        created_at -> Datetime,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    reconcile_runs (id) {
        #[max_length = 36]
        id -> Char,
        #[max_length = 16]
        triggered_by -> Varchar,
        #[max_length = 100]
        asked_by -> Nullable<Varchar>,
        dry_run -> Bool,
        deep -> Bool,
        confirmed -> Bool,
        #[max_length = 16]
        status -> Varchar,
        #[max_length = 200]
        owner -> Varchar,
        started_at -> Datetime,
        finished_at -> Nullable<Datetime>,
        drops_examined -> Unsigned<Integer>,
        users_examined -> Bigint,
        rows_examined -> Bigint,
        failed_claims_examined -> Bigint,
        applied -> Unsigned<Integer>,
        skipped -> Unsigned<Integer>,
        failed -> Unsigned<Integer>,
        error -> Nullable<Text>,
        drops -> Nullable<Json>,
        content -> Nullable<Bigint>,
        #[max_length = 36]
        same_as -> Nullable<Char>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    reconciler_state (name) {
        #[max_length = 64]
        name -> Varchar,
        #[max_length = 500]
        value -> Varchar,
        updated_at -> Datetime,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    repairs (run_id, drop_id, kind) {
        #[max_length = 36]
        run_id -> Char,
        drop_id -> Bigint,
        #[max_length = 24]
        kind -> Varchar,
        number -> Unsigned<Integer>,
        repaired_at -> Datetime,
        told -> Bool,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    revoked_coupons (id) {
        id -> Bigint,
        coupon_id -> Bigint,
        drop_id -> Bigint,
        slot -> Nullable<Unsigned<Integer>>,
        #[max_length = 128]
        user_id -> Varchar,
        #[max_length = 29]
        code -> Nullable<Varchar>,
        claimed_at -> Nullable<Datetime>,
        issued_at -> Nullable<Datetime>,
        #[max_length = 10]
        issued_by -> Nullable<Varchar>,
        #[max_length = 200]
        reason -> Varchar,
        #[max_length = 100]
        revoked_by -> Varchar,
        may_claim_again -> Bool,
        revoked_at -> Datetime,
        again_from -> Nullable<Datetime>,
        #[max_length = 6]
        once_per -> Varchar,
        person_scope -> Bigint,
        open_scope -> Nullable<Bigint>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    slot_limits (drop_id, slot_limit, coupon_id, person_scope) {
        drop_id -> Bigint,
        slot_limit -> Unsigned<Integer>,
        coupon_id -> Bigint,
        person_scope -> Bigint,
        quantity -> Unsigned<Integer>,
        #[max_length = 6]
        once_per -> Varchar,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    told (id) {
        id -> Bigint,
        #[max_length = 8]
        subject -> Varchar,
        #[max_length = 100]
        name -> Varchar,
        #[max_length = 110]
        open_name -> Nullable<Varchar>,
        #[max_length = 24]
        kind -> Varchar,
        coupon_id -> Nullable<Bigint>,
        drop_id -> Nullable<Bigint>,
        summary -> Text,
        began_at -> Datetime,
        waits_from -> Nullable<Datetime>,
        #[max_length = 24]
        explained_by -> Nullable<Varchar>,
        gone_at -> Nullable<Datetime>,
        returns -> Unsigned<Integer>,
        told_at -> Nullable<Datetime>,
        tells -> Unsigned<Integer>,
        told_number -> Unsigned<Bigint>,
        #[max_length = 16000]
        told_cases -> Nullable<Varbinary>,
        ended_at -> Nullable<Datetime>,
        given_up -> Bool,
        acknowledged_at -> Nullable<Datetime>,
        #[max_length = 100]
        acknowledged_by -> Nullable<Varchar>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use crate::columns::Datetime;

    topic_positions (topic, partition_id) {
        #[max_length = 249]
        topic -> Varchar,
        partition_id -> Integer,
        next_offset -> Bigint,
        seen_at -> Datetime,
    }
}

diesel::joinable!(coupon_allow_list -> coupons (coupon_id));
diesel::joinable!(drops -> coupons (coupon_id));

diesel::allow_tables_to_appear_in_same_query!(
    broken_promises,
    code_key,
    coupon_allow_list,
    coupon_uses,
    coupons,
    drops,
    failed_claims,
    issued_coupons,
    levels,
    ops_actions,
    outbox,
    processes,
    reconcile_findings,
    reconcile_runs,
    reconciler_state,
    repairs,
    revoked_coupons,
    slot_limits,
    told,
    topic_positions,
);
