//! Programs keep running if their output cannot be written.

use std::fs::File;
use std::process::Stdio;

use firstcome_stack::ReservedPort;

use crate::prelude::*;

fn full() -> Stdio {
    File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}

/// Standard output and logs go to a full disk, as `nohup … > file` may do.
#[tokio::test]
async fn programs_keep_running_when_their_output_goes_to_a_full_disk() {
    let f = Fixture::new("full-output").await;
    for (program, word) in [
        ("firstcome-api", "serve"),
        ("firstcome-api", "consume"),
        ("firstcome-reconciler", "daemon"),
    ] {
        let port = ReservedPort::find().unwrap();
        let address = format!("127.0.0.1:{}", port.number());
        let own = [("LISTEN_ADDR", address.as_str()), ("RUST_LOG", "debug")];
        let mut command = f.world.system.command(program, &[word], &own).unwrap();
        let mut process = command.stdout(full()).stderr(full()).spawn().unwrap();
        let http = Http::new(&format!("http://{address}"));
        eventually(&format!("{word} is ready"), LIMIT, async || {
            assert_eq!(process.try_wait().unwrap(), None, "{word} has ended");
            let asked = Http::try_send(http.request(reqwest::Method::GET, "/readyz")).await;
            asked.is_ok_and(|reply| reply.status == 200)
        })
        .await;
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

/// `… | head` closes the pipe before everything is written.
#[tokio::test]
async fn commands_end_silently_when_the_reader_closes_the_pipe() {
    let f = Fixture::new("head").await;
    f.held("Winter", 5, 3).await;
    for args in [
        &["once", "--dry-run"][..],
        &["once", "--dry-run", "--json"],
        &["explain", "--coupon", "1", "--user", "u-1"],
    ] {
        let mut command = f
            .world
            .system
            .command("firstcome-reconciler", args, &[])
            .unwrap();
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(process.stdout.take());
        let output = process.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !said.contains("panicked") && !said.contains("Broken pipe"),
            "{args:?}: {said}"
        );
        assert!(
            output.status.code().is_some_and(|code| code <= 2),
            "{args:?}"
        );
    }
}
