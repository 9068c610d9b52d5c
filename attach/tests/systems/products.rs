//! Systems on MySQL, on PostgreSQL, and MySQL's systems on MariaDB.

use firstcome_shops::{Product, System, fresh, postgres, published, tickets};

use crate::system::prove;

#[tokio::test]
async fn faults_of_published_systems_are_named_and_repaired() {
    assert_eq!(published::SYSTEMS.len(), 21);
    prove(published::SYSTEMS).await;
}

#[tokio::test]
async fn ticket_seat_and_stock_systems_are_described_by_their_own_sql() {
    prove(tickets::SYSTEMS).await;
    prove(fresh::SYSTEMS).await;
}

#[tokio::test]
async fn systems_on_postgresql_are_described_broken_named_and_repaired() {
    prove(postgres::SYSTEMS).await;
}

/// Returns the systems that can be on MariaDB, which has no `UUID_TO_BIN`.
fn on_mariadb() -> Vec<System> {
    let all = published::SYSTEMS.iter().chain(tickets::SYSTEMS);
    let fitting = all.filter(|system| !system.file.contains("UUID_TO_BIN"));
    fitting
        .map(|system| System {
            product: Product::Mariadb,
            ..*system
        })
        .collect()
}

/// Shows for each change what differs on the server. The systems differ as they do on MySQL.
#[tokio::test]
async fn five_systems_on_mariadb_are_described_broken_named_and_repaired() {
    let all = on_mariadb();
    let five: Vec<System> = all.iter().step_by(all.len() / 5).take(5).copied().collect();
    assert_eq!(five.len(), 5);
    prove(&five).await;
}

#[tokio::test]
#[ignore = "release"]
async fn systems_on_mariadb_are_described_broken_named_and_repaired() {
    prove(&on_mariadb()).await;
}
