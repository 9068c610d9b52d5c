//! Tools and views for operators: changes of coupons, the command line, the operations page, logs
//! and traces, and also process shutdown and costs at large sizes.

mod api_docs;
mod asked;
mod changes;
mod closing;
mod command_line;
mod console_routes;
mod deployment;
mod edges;
mod explain;
mod logs;
mod missed;
mod operators;
mod page;
mod page_acts;
mod page_letters;
mod page_live;
mod page_people;
mod page_screens;
mod processes;
mod promotion;
mod recording;
mod reopening;
mod silent_hosts;
mod silent_stops;
mod traces;
mod visitor;
