mod healthy;
mod table;
