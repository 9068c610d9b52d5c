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

/// MariaDB has no `UUID_TO_BIN`.
#[tokio::test]
async fn systems_on_mariadb_are_described_broken_named_and_repaired() {
    let all = published::SYSTEMS.iter().chain(tickets::SYSTEMS);
    let fitting = all.filter(|system| !system.file.contains("UUID_TO_BIN"));
    let systems: Vec<System> = fitting
        .map(|system| System {
            product: Product::Mariadb,
            ..*system
        })
        .collect();
    prove(&systems).await;
}
