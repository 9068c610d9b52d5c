//! Checks an assumption of docker-compose.yml without a container.

use std::time::Duration;

use firstcome_shared::mysql::{DbSettings, migrations};
use firstcome_stack::{MysqlOptions, MysqlServer, Server};

const SETTING: &str = "--log-bin-trust-function-creators=ON";

async fn migrate_as_an_ordinary_user(extra_args: Vec<String>) -> anyhow::Result<Vec<String>> {
    let mysql: MysqlServer = Server::start(MysqlOptions { extra_args }).await.unwrap();
    mysql
        .query("CREATE USER 'firstcome'@'%' IDENTIFIED BY 'a-password'")
        .await
        .unwrap();
    mysql
        .query("GRANT ALL ON firstcome.* TO 'firstcome'@'%'")
        .await
        .unwrap();
    let url = mysql
        .database_url("firstcome")
        .replace("root@", "firstcome:a-password@")
        .into();
    migrations::migrate(&DbSettings {
        url,
        pool_size: 1,
        limit: Duration::from_secs(30),
    })
    .await
}

#[tokio::test]
async fn migration_by_an_unprivileged_user_needs_the_compose_files_setting() {
    assert!(include_str!("../../../../../docker-compose.yml").contains(SETTING));
    let error = migrate_as_an_ordinary_user(Vec::new())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("log_bin_trust_function_creators"), "{error}");
    assert!(
        !migrate_as_an_ordinary_user(vec![SETTING.into()])
            .await
            .unwrap()
            .is_empty()
    );
}
