//! Full disks, on a small tmpfs. Where mounting is not allowed, the tests report that they prove
//! nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use firstcome_stack::{MysqlOptions, MysqlServer, RedisOptions, RedisServer};
use firstcome_testkit::{WorldStores, eventually};

use super::waves::{HEALED, Waves, impatient};

/// A separate file system over the data of a stopped server. Unmounted on drop, before the server's
/// folder is deleted, so declare it after the server.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// With this many bytes left; `None` if mounting is not possible.
    fn over(data: &Path, left: u64) -> Option<Self> {
        let aside = data.with_file_name("aside");
        run(Command::new("mv").args([data, &aside]));
        std::fs::create_dir(data).unwrap();
        let used = Command::new("du")
            .args(["-s", "-B1"])
            .arg(&aside)
            .output()
            .unwrap()
            .stdout;
        let used: u64 = String::from_utf8(used)
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let mut mount = Command::new("mount");
        mount
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={}", used + left),
                "firstcome-test",
            ])
            .arg(data);
        if !mount.output().is_ok_and(|done| done.status.success()) {
            eprintln!(
                "NOT SHOWN: mounting is not permitted here, so there is no full disk to test"
            );
            return None;
        }
        let disk = Self(data.to_owned());
        run(Command::new("cp").arg("-a").arg(aside.join(".")).arg(data));
        std::fs::remove_dir_all(aside).unwrap();
        Some(disk)
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Uses up the remaining space.
    fn fill(&self) {
        // It ends with an intended error when the disk is full.
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=4096"])
            .arg(format!("of={}", self.ballast().display()))
            .output();
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server may still have open files.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

#[tokio::test]
async fn a_redis_whose_disk_is_full_breaks_no_promise() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    redis.stop().await.unwrap();
    let Some(disk) = SmallDisk::over(redis.data_dir(), 16 << 20) else {
        return;
    };
    redis.start_again().await.unwrap();
    let waves =
        Waves::begin(impatient(WorldStores::shared().await.with_redis(&redis), "redis-disk").await)
            .await;
    waves
        .survives(async |waves| {
            disk.fill();
            let answers = waves.wave().await;
            assert!(
                answers.contains_key("unavailable"),
                "claims that cannot be stored are not promised: {answers:?}"
            );
            assert!(
                redis.log_tail(40).contains("AOF write error"),
                "{}",
                redis.log_tail(40)
            );
            disk.free();
            // With `appendfsync always` it exits rather than acknowledge what it could not write.
            redis.start_again().await.unwrap();
        })
        .await;
}

#[tokio::test]
async fn a_mysql_whose_disk_is_full_breaks_no_promise() {
    let mysql = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    mysql.stop().await.unwrap();
    let Some(disk) = SmallDisk::over(mysql.data_dir(), 64 << 20) else {
        return;
    };
    mysql.start_again().await.unwrap();
    let waves =
        Waves::begin(impatient(WorldStores::shared().await.with_mysql(&mysql), "mysql-disk").await)
            .await;
    waves
        .survives(async |waves| {
            waves
                .world
                .sql
                .query("CREATE TABLE junk (id INT AUTO_INCREMENT PRIMARY KEY, text LONGTEXT)")
                .await;
            disk.fill();
            // Also use up the slack in preallocated files: first of the tables, then of the binary
            // log.
            for size in [1_000_000, 500] {
                eventually("MySQL can no longer write", HEALED, async || {
                    let sql = format!("INSERT INTO junk (text) VALUES (REPEAT('x', {size}))");
                    let more = waves.world.sql.try_query(&sql);
                    !matches!(
                        tokio::time::timeout(Duration::from_secs(3), more).await,
                        Ok(Ok(_))
                    )
                })
                .await;
            }
            assert_eq!(
                waves.wave().await,
                [("accepted".into(), 20)].into(),
                "claims do not need MySQL"
            );
            waves.consumer_says("could not be written").await;
            disk.free();
            // A MySQL that waits for space checks once a minute; an operator would restart it
            // instead.
            mysql.kill().await.unwrap();
            mysql.start_again().await.unwrap();
        })
        .await;
}
