//! `firstcome-reconciler erase`: replaces a user's ID with a pseudonym.

use std::process::ExitCode;

use firstcome_shared::domain::UserId;
use firstcome_shared::mysql::ops_actions::Operator;
use tokio_util::sync::CancellationToken;

use crate::args::EraseArgs;
use crate::by_hand::{EraseError, Erased, erase};

pub(crate) async fn run(args: EraseArgs, _stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let stores = args.stores.handles()?;
    let user: UserId = args.user.parse()?;
    let by = Operator {
        name: Some(args.by),
        token: "cli".to_owned(),
        from: None,
    };
    match erase(&stores, &user, by).await {
        Ok(Erased {
            pseudonym,
            rows,
            lists,
        }) => {
            for (table, rows) in rows.iter().filter(|(_, rows)| *rows > 0) {
                println!("{table:<20} {rows}");
            }
            if lists > 0 {
                println!("taken off {lists} allow lists");
            }
            println!("erased: this person is {pseudonym} from now on");
            Ok(ExitCode::SUCCESS)
        }
        Err(EraseError::StillNeeded(reasons)) => {
            eprintln!("nothing was erased");
            for reason in reasons {
                eprintln!("  {reason}");
            }
            Ok(ExitCode::from(1))
        }
        Err(error) => Err(error.into()),
    }
}
