//! Tests settings that prevent start-up.

use std::process::{Command, Output};

use crate::world::OPS_TOKEN;

fn serve(settings: &[(&str, &str)]) -> Output {
    let fine = [
        ("USER_AUTH", "trusted-header"),
        ("OPS_TOKEN", OPS_TOKEN),
        ("DATABASE_URL", "mysql://root:hunter2@127.0.0.1:1/x"),
        ("REDIS_URL", "redis://127.0.0.1:1"),
        ("KAFKA_BROKERS", "127.0.0.1:1"),
        ("KAFKA_SIGNING_KEY", "0123456789abcdef0123456789abcdef"),
        ("LISTEN_ADDR", "127.0.0.1:0"),
        ("FIRSTCOME_TEST_STARTUP_WAIT_SECONDS", "0"),
        ("RUST_LOG", "off"),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_firstcome-api"));
    command.arg("serve").env_clear().envs(fine);
    for (name, value) in settings {
        if value.is_empty() {
            command.env_remove(name)
        } else {
            command.env(name, value)
        };
    }
    command.output().unwrap()
}

#[test]
fn refuses_to_start_with_a_wrong_setting_in_one_sentence() {
    type Setting = (&'static str, &'static str);
    const HS256: [Setting; 3] = [
        ("USER_AUTH", "jwt"),
        ("JWT_ALGORITHM", "HS256"),
        ("JWT_SECRET", "hunter2-hunter2-hunter2-hunter2-hunter2"),
    ];
    let cases: [(&[Setting], &str, i32); 10] = [
        (&[("USER_AUTH", "")], "--user-auth", 2),
        (&[("USER_AUTH", "nobody")], "trusted-header", 2),
        (&[("OPS_TOKEN", "")], "--ops-token", 2),
        (&[("OPS_TOKEN", "hunter2")], "at least 32", 1),
        (
            &[("KAFKA_SIGNING_KEY", "")],
            "KAFKA_SIGNING_KEY is not set: make one with `openssl rand -hex 32`",
            1,
        ),
        (&[("USER_AUTH", "jwt")], "JWT_ALGORITHM", 1),
        (
            &[("USER_AUTH", "jwt"), ("JWT_ALGORITHM", "none")],
            "HS256",
            2,
        ),
        (&HS256, "USER_AUTH=jwt needs JWT_ISSUER", 1),
        (
            &[("JWT_ALGORITHM", "HS256")],
            "JWT_ALGORITHM is set but USER_AUTH=trusted-header",
            1,
        ),
        (&[], "did not answer", 1),
    ];
    for (settings, expected, status) in cases {
        let output = serve(settings);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{settings:?}: {said}");
        assert!(said.contains(expected), "{settings:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
        assert!(output.stdout.is_empty());
        if status == 1 {
            assert_eq!(said.trim().lines().count(), 1, "{said}");
        }
    }
}
