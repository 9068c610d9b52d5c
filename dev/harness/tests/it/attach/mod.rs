//! The attached daemon: stores that become unavailable, and requests of an operator.
//! `pages/attached.rs` tests the link from a mail to the page.

mod asked;
mod stores;

use std::path::PathBuf;

use firstcome_harness::{Process, Sql};
use firstcome_shared::config::{MysqlArgs, TlsArgs};
use firstcome_shared::mysql::migrations::{self, Tables};
use firstcome_stack::with_database;

use crate::prelude::*;

/// The lines of a campaign that may repair.
pub(crate) const REPAIRS: &str = "mode = 'repair'\nqueue = []\ncheck = []\n\
    issue = ['INSERT INTO coupon (user_id) VALUES (:user)']";

/// A pass each second.
pub(crate) const OFTEN: [(&str, &str); 1] = [("RECONCILE_CRON", "* * * * * *")];

const TABLE: &str = "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, \
    user_id VARCHAR(40) NOT NULL UNIQUE)";

/// Somebody else's coupon system, with its keys in the Redis that all tests share.
pub(crate) struct Shop {
    /// Firstcome's own database and mails.
    pub(crate) world: World,
    /// Their database.
    pub(crate) sql: Sql,
    folder: tempfile::TempDir,
}

impl Shop {
    pub(crate) async fn new(name: &str) -> Self {
        let server = Stack::shared().await.unwrap().mysql.url();
        let world = World::bare(WorldStores::shared().await, name).await;
        // The daemon refuses a database that has the tables of Firstcome's own coupons.
        let ours = world.sql.url().to_owned();
        let ours = MysqlArgs::at(ours.into(), &TlsArgs::default(), 5_000).unwrap();
        migrations::migrate(&ours, Tables::Records).await.unwrap();
        let database = format!("{}_shop", world.database());
        let create = format!("CREATE DATABASE {database}");
        Sql::new(&server).query(&create).await;
        let sql = Sql::new(&with_database(&server, &database));
        sql.query(TABLE).await;
        Self {
            world,
            sql,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Returns the full name of a key of the shop.
    pub(crate) fn key(&self, name: &str) -> String {
        self.world.redis.own(name)
    }

    pub(crate) async fn redis<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.world.redis.command(words).await
    }

    /// Adds users who were promised a coupon and have their rows.
    pub(crate) async fn sell(&self, users: std::ops::Range<u32>) {
        for user in users {
            self.add_member(user).await;
            self.add_row(user).await;
        }
    }

    pub(crate) async fn add_member(&self, user: u32) {
        let user = format!("user-{user}");
        let () = self.redis(&["SADD", &self.key("users"), &user]).await;
        let () = self.redis(&["INCR", &self.key("count")]).await;
    }

    pub(crate) async fn add_row(&self, user: u32) {
        let insert = format!("INSERT INTO coupon (user_id) VALUES ('user-{user}')");
        self.sql.query(&insert).await;
    }

    /// Writes the file. `stores` are the lines before the campaigns, and `of_campaign` are
    /// further lines of the only campaign.
    pub(crate) fn file(&self, stores: &str, of_campaign: &str) -> PathBuf {
        let path = self.folder.path().join("shop.toml");
        let [users, count] = [self.key("users"), self.key("count")];
        let campaign = format!(
            "[[campaign]]\nname = 'Winter 2026'\nquantity = 60\nin_flight = '1s'\n\
             promised = {{ set = '{users}' }}\n\
             count = {{ key = '{count}', counts = 'up' }}\n\
             issued = 'SELECT user_id FROM coupon'\n{of_campaign}\n"
        );
        std::fs::write(&path, format!("{stores}\n{campaign}")).unwrap();
        path
    }

    /// Returns the lines of the file that name the stores, without a proxy.
    pub(crate) async fn stores(&self) -> String {
        let redis = Stack::shared().await.unwrap().redis.url();
        let database = self.sql.url();
        format!("database = '{database}'\nredis = '{redis}'")
    }

    pub(crate) fn daemon(&self, file: &std::path::Path, settings: &[(&str, &str)]) -> Process {
        let file = file.to_str().unwrap();
        let program = "firstcome-reconciler";
        self.world.start(program, &["attach", file], settings)
    }

    /// Returns the kinds of the firing alerts.
    pub(crate) async fn firing(&self) -> Vec<String> {
        let firing = "SELECT kind FROM told WHERE open_name IS NOT NULL AND told_at IS NOT NULL ORDER BY kind";
        self.world.sql.query(firing).await.concat()
    }
}
