//! Operators and processes: changes of coupons, stops and kills.

mod added_column;
mod api_docs;
mod catalogue;
mod changes;
mod closing;
mod command_line;
mod holders;
mod mass_repairs;
mod members;
mod operators;
mod other_release;
mod page;
mod page_acts;
mod page_by_hand;
mod page_deliveries;
mod page_live;
mod processes;
mod promotion;
mod recording;
mod reopening;
mod scale;
mod silent_hosts;
mod silent_stops;
mod sizes;
