//! Name lookups beside the loop.
