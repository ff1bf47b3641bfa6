//! Readers against real files, HTTP servers and doubles of object stores.
