//! FunASR checkpoint converter.
