//! The server.
mod openai_types;
mod reply;
mod upload;
mod web;
