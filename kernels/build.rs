//! Compiles the kernels of `cuda/` to PTX; without the feature `cuda` it does nothing.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    if let Err(error) = compile() {
        println!("cargo::error={error}");
    }
}

/// One PTX a kernel, as constants in `ptx.rs`. The driver compiles it for the card, which is of the capability that it is made
/// for or of a later one.
#[cfg(feature = "cuda")]
fn compile() -> Result<(), Box<dyn std::error::Error>> {
    let ptx = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("ptx.rs");
    println!("cargo::rerun-if-changed=cuda");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let built = cudaforge::KernelBuilder::new()
        .source_dir("cuda")
        .watch(["cuda/common.cuh", "cuda/ending.cuh", "cuda/norm.cuh", "cuda/track.cuh"])
        .args(["-std=c++17", "-O3", "-Werror", "all-warnings"])
        .build_ptx();
    match built {
        Ok(kernels) => Ok(kernels.write(ptx)?),
        Err(cudaforge::Error::NvccNotFound(_)) => {
            Err("the feature cuda needs nvcc: install the CUDA toolkit, 12 or 13, and put its \
             bin on PATH or set CUDA_HOME; docs/cuda.md has the commands"
                .into())
        }
        Err(cudaforge::Error::ComputeCapDetectionFailed(_)) => {
            Err("no GPU tells what to compile for: set CUDA_COMPUTE_CAP, \
             80 for all cards from Ampere on"
                .into())
        }
        Err(error) => Err(error.into()),
    }
}
