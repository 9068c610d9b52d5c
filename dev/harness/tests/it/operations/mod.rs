//! Tools and views for operators: changes of coupons, the command line, the operations page, logs
//! and traces, and also process shutdown and costs at large sizes.

mod asked;
mod clock;
mod command_line;
mod console_routes;
mod deployment;
mod explain;
mod missed;
mod openapi;
mod output;
mod page;
mod promotion;
mod recording;
mod refusals;
mod reopening;
mod silent;
mod traces;
mod visitor;
