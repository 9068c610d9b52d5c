//! Tools and views for operators: changes of coupons, the command line, the operations page, the
//! HTTP documents, traces and deployment. Also promotion from the waiting list, clocks, and stores
//! that are silent or refuse.

mod asked;
mod clock;
mod command_line;
mod console_routes;
mod deployment;
mod explain;
mod missed;
mod night;
mod openapi;
mod output;
mod page;
mod promotion;
mod ready;
mod recording;
mod refusals;
mod reopening;
mod silent;
mod traces;
mod visitor;
