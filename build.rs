//! Link arguments of the Lua module, and of nothing else.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        // Lua unloads its modules at state close, and the loop thread may still be on its last instructions.
        Ok("linux" | "android") => println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete"),
        // Lua's functions come from the interpreter that loads the module.
        Ok("macos") => println!("cargo:rustc-cdylib-link-arg=-Wl,-undefined,dynamic_lookup"),
        _ => {}
    }
}
