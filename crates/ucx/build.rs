//! Compiles the shim against UCX's own headers, so that no layout is written down twice. The library is loaded at run time.

#[cfg(feature = "libucx")]
fn main() {
    println!("cargo::rerun-if-changed=src/shim.c");
    // 1.13 is what Debian 12 has, 1.18 what Debian 13 has.
    let found = pkg_config::Config::new()
        .atleast_version("1.13")
        .cargo_metadata(false)
        .probe("ucx");
    let ucx = match found {
        Ok(ucx) => ucx,
        Err(error) => {
            println!("cargo::error=UCX is not here: {error}");
            println!("cargo::error=hint: apt-get install libucx-dev, or build without the feature");
            return;
        }
    };
    cc::Build::new()
        .file("src/shim.c")
        .includes(&ucx.include_paths)
        .std("c11")
        .compile("lev_ucx_shim");
}

#[cfg(not(feature = "libucx"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
