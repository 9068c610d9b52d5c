//! MariaDB as their database, with the statements that other tests run on MySQL.

use std::fs::File;
use std::process::{Child, Stdio};

use firstcome_harness::{LIMIT, Sql, eventually};
use firstcome_stack::{Mariadb, ReservedPort, Stack};
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::Shop;

/// A private MariaDB, killed on drop.
struct MariaDb {
    process: Child,
    url: String,
    _port: ReservedPort,
    _folder: tempfile::TempDir,
}

/// The files of Debian's package that create the system tables.
const SYSTEM: [&str; 2] = ["mysql_system_tables.sql", "mysql_system_tables_data.sql"];

impl MariaDb {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let fetched = spawn_blocking(Mariadb::fetch).await.unwrap().unwrap();
        let program = |args: &[&str]| {
            let mut program = fetched.server(&data);
            program.args(args);
            let log = File::create(folder.path().join("log")).unwrap();
            program.stdout(Stdio::null()).stderr(log);
            program
        };
        let mut system = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket = NULL;\n\
            SET @skip_auth_anonymous = 1;\n"
            .to_owned();
        for file in SYSTEM {
            system += &std::fs::read_to_string(fetched.scripts().join(file)).unwrap();
        }
        let statements = folder.path().join("system.sql");
        std::fs::write(&statements, system).unwrap();
        let mut bootstrap = program(&["--bootstrap"]);
        bootstrap.stdin(File::open(&statements).unwrap());
        assert!(bootstrap.status().unwrap().success());
        let port = ReservedPort::find().unwrap();
        let socket = folder.path().join("socket");
        let args = [
            format!("--port={}", port.number()),
            format!("--socket={}", socket.display()),
            "--bind-address=127.0.0.1".to_owned(),
            "--innodb-flush-log-at-trx-commit=0".to_owned(),
        ];
        let process = program(&args.each_ref().map(String::as_str))
            .spawn()
            .unwrap();
        let url = format!("mysql://root@127.0.0.1:{}/", port.number());
        let mariadb = Self {
            process,
            url,
            _port: port,
            _folder: folder,
        };
        let any = Sql::new(&mariadb.url);
        eventually("MariaDB answers", LIMIT, async || {
            any.rows("SELECT 1").await.is_ok()
        })
        .await;
        mariadb
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            eprintln!("MariaDB was not ended: {error}");
        }
    }
}

/// Tables with a status, codes that the program generates, a stock row with the remaining number,
/// times in Korean time, and user IDs of 16 bytes.
const TABLES: [&str; 4] = [
    "CREATE TABLE issued (id BINARY(16) PRIMARY KEY, event_id INT NOT NULL, user_id BINARY(16) NOT NULL, \
     code CHAR(16) NOT NULL, status VARCHAR(10) NOT NULL DEFAULT 'ISSUED', created_at DATETIME(6) NOT NULL, \
     UNIQUE (event_id, user_id))",
    "CREATE TABLE failed (id INT AUTO_INCREMENT PRIMARY KEY, event_id INT NOT NULL, user_id BINARY(16) NOT NULL, \
     processed_at DATETIME NULL)",
    "CREATE TABLE stock (id INT PRIMARY KEY, total INT NOT NULL, remaining INT UNSIGNED NOT NULL)",
    "INSERT INTO stock VALUES (7, 40, 20)",
];

fn uuid(user: u32) -> String {
    format!("0193a1f2-7c00-7d31-8000-{user:012}")
}

#[tokio::test]
async fn mariadb_is_compared_and_repaired_as_mysql_is() {
    let mariadb = MariaDb::start().await;
    let shop = Shop::at(&mariadb.url, "attach-mariadb").await;
    for table in TABLES {
        shop.sql.query(table).await;
    }
    let issue = async |user: u32| {
        let user = uuid(user);
        let row = format!(
            "INSERT INTO issued (id, event_id, user_id, code, status, created_at) VALUES \
             (UNHEX(REPLACE(UUID(), '-', '')), 7, UNHEX(REPLACE('{user}', '-', '')), LEFT(UUID(), 16), 'USED', NOW(6))"
        );
        shop.sql.query(&row).await;
    };
    let users = shop.key("users");
    for user in 0..24 {
        let () = shop.redis(&["SADD", &users, &uuid(user)]).await;
        if user < 20 {
            issue(user).await;
        }
    }
    let failed = format!(
        "INSERT INTO failed (event_id, user_id) VALUES (7, UNHEX(REPLACE('{}', '-', '')))",
        uuid(20)
    );
    shop.sql.query(&failed).await;
    let () = shop.redis(&["SREM", &users, &uuid(1)]).await;
    let count = shop.key("count");
    let () = shop.redis(&["SET", &count, "14"]).await;

    let path = shop.folder.path().join("mariadb.toml");
    let database = shop.sql.url();
    let redis = Stack::shared().await.unwrap().redis.url();
    let file = format!(
        "database = '{database}'
        redis = '{redis}'
        [[campaign]]
        name = 'Winter'
        mode = 'repair'
        quantity_sql = 'SELECT total FROM stock WHERE id = 7'
        in_flight = '0.1s'
        time_zone = 'Asia/Seoul'
        users = {{ key = '{users}', type = 'set' }}
        count = {{ key = '{count}', means = 'left' }}
        failed = {{ table = 'failed', user = 'user_id', where = {{ event_id = 7 }}, done = {{ column = 'processed_at', value = '{{now}}' }} }}
        stock = {{ table = 'stock', where = {{ id = 7 }}, left = 'remaining' }}
        [campaign.rows]
        table = 'issued'
        user = 'user_id'
        where = {{ event_id = 7, status = ['ISSUED', 'USED'] }}
        duplicates = 'locked'
        insert = {{ id = '{{uuid}}', code = '{{random:16}}', created_at = '{{now}}' }}"
    );
    std::fs::write(&path, file).unwrap();
    let pass = async |args: &[&str], code: i32| {
        let all = [
            &["attach", path.to_str().unwrap(), "--once", "--json"],
            args,
        ]
        .concat();
        let pass = shop.world.start("firstcome-reconciler", &all, &[]);
        let ended = pass.ended(LIMIT).await;
        assert_eq!(ended, code, "{args:?}: {}", pass.log());
        serde_json::from_str::<Value>(&pass.all_stdout().await).unwrap()
    };
    let planned = pass(&["--dry-run"], 1).await;
    assert_eq!(
        planned["drops"][0]["findings"].as_array().unwrap().len(),
        6,
        "{planned}"
    );
    let confirm = ["--campaign", "Winter", "--confirm", "--shown-by"];
    let another_run = uuid(1);
    let refused = pass(&[&confirm[..], &[&another_run]].concat(), 1).await;
    assert_eq!(refused["status"], "braked", "{refused}");
    let shown_by = planned["run_id"].as_str().unwrap();
    let confirmed = pass(&[&confirm[..], &[shown_by]].concat(), 0).await;
    assert_eq!(confirmed["status"], "repaired", "{confirmed}");
    let last = pass(&[], 0).await;
    assert_eq!(last["status"], "clean", "{last}");
    let state = "SELECT (SELECT COUNT(*) FROM issued), (SELECT COUNT(*) FROM failed WHERE processed_at IS NULL), \
        (SELECT remaining FROM stock), (SELECT COUNT(*) FROM issued WHERE status = 'ISSUED' \
        AND LENGTH(code) = 16 AND created_at > UTC_TIMESTAMP() + INTERVAL 8 HOUR)";
    assert_eq!(shop.sql.query(state).await, [["24", "0", "16", "4"]]);
    let left: i64 = shop.redis(&["GET", &count]).await;
    let members: i64 = shop.redis(&["SCARD", &users]).await;
    assert_eq!([left, members], [16, 24]);
}
