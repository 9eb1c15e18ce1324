//! Checkpoints that want to run code, lie about sizes, or are damaged: an error each, no panic, no large allocation.

use std::io::{Cursor, Write};

use proptest::{collection::vec, prelude::*};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::{BARE, Case, fixture};

/// A checkpoint archive with this `data.pkl` and one storage `0`.
fn archive(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, content) in [("x/data.pkl", pickle), ("x/data/0", storage)] {
        zip.start_file(name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn refusal(pickle: &[u8]) -> String {
    Case::new(BARE, &archive(pickle, &[0; 8])).refusal()
}

/// A state dict with one f32 tensor `w`, with the opcodes for storage length, offset, shape and strides as given.
fn tensor(len: &[u8], offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let storage = b"ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu";
    [&b"\x80\x02}U\x01w"[..], storage, len, b"tQ", offset, shape, strides, b"\x89}tRs."].concat()
}

#[test]
fn code_in_a_pickle_is_refused_by_name() {
    for (pickle, name) in [
        (&b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R."[..], "os.system"),
        (b"\x80\x02cposix\nsystem\nX\x02\0\0\0id\x85R.", "posix.system"),
        (b"\x80\x02cbuiltins\neval\nX\x01\0\0\x001\x85R.", "builtins.eval"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.", "builtins.exec"),
        (b"\x80\x02ctorch\nload\n.", "torch.load"),
        (b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81.", "torch.nn.modules.linear.Linear"),
        (b"\x80\x02cnumpy.core.multiarray\nscalar\n.", "numpy.core.multiarray.scalar"),
        (b"\x80\x02ctorch\nQInt8Storage\n.", "torch.QInt8Storage"),
    ] {
        let message = refusal(pickle);
        assert!(message.contains(&format!("names `{name}`")), "{message}");
        assert!(message.ends_with("refused, nothing was executed"), "{message}");
    }
}

#[test]
fn lies_and_damage_are_refused() {
    let huge = [&b"\x80\x02}U\x01w\x8b\xff\xff\xff\xff"[..], &[0; 16]].concat();
    let text = b"\x80\x02X\xff\xff\xff\x7fabc.";
    let bytes = b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc.";
    let long = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f";
    let cases: [(Vec<u8>, &str); 19] = [
        (huge, "beyond any checkpoint's size (a string or integer)"),
        (text.to_vec(), "beyond any checkpoint's size"),
        (bytes.to_vec(), "beyond any checkpoint's size"),
        (b"\x80\x02X\x05\0\0\0abc".to_vec(), "truncated or damaged"),
        (b"".to_vec(), "truncated or damaged"),
        (b"\x80\x02.".to_vec(), "the stack is empty"),
        (b"\x80\x02(0.".to_vec(), "the stack is empty"),
        (b"\x80\x02t.".to_vec(), "a MARK is missing"),
        (b"\x80\x02h\x07.".to_vec(), "an unset memo slot is read"),
        (b"\x80\x02N.".to_vec(), "holds no state dict"),
        (b"\x80\x02}.".to_vec(), "holds no tensors"),
        (b"\x80\x02NNR.".to_vec(), "something that is no function is called"),
        (b"\x80\x02i.".to_vec(), "opcode 0x69"),
        (tensor(b"K\x03", b"K\0", b"K\x03\x85", b"K\x01\x85"), "storage `0` is missing or truncated"),
        (tensor(b"K\x02", b"K\x01", b"K\x02\x85", b"K\x01\x85"), "reaches outside its storage"),
        (tensor(b"K\x02", b"K\0", b"K\x03\x85", b"K\0\x85"), "more elements than its storage"),
        (tensor(b"K\x02", long, b"K\x02\x85", b"K\x01\x85"), "reaches outside its storage"),
        (
            tensor(b"K\x02", b"K\0", &[&long[..], long, b"\x86"].concat(), b"K\x01K\x01\x86"),
            "shape overflows",
        ),
        (tensor(b"K\x02", b"K\0", b"K\x02\x85", b"J\xff\xff\xff\xff\x85"), "wrong arguments"),
    ];
    for (pickle, cause) in cases {
        let message = refusal(&pickle);
        assert!(message.contains(cause), "{message} for {cause}");
    }
    let good = tensor(b"K\x02", b"K\0", b"K\x02\x85", b"K\x01\x85");
    Case::new(BARE, &archive(&good, &[0; 8])).converted();
}

#[test]
fn bombs_end_early() {
    // A list of itself; nesting a hundred thousand deep; a list of 4096 copied into OrderedDicts again and again.
    let cycle = b"\x80\x02]q\0h\0a.".to_vec();
    let nested = [b"\x80\x02".to_vec(), b"(".repeat(100_000), b"t".repeat(100_000), b".".to_vec()].concat();
    let pairs = [&b"\x80\x02("[..], &b"NN\x86".repeat(4096), b"l\x85q\x000ccollections\nOrderedDict\nq\x010"]
        .concat();
    let copies = [pairs, b"h\x01h\x00R".repeat(100_000), b".".to_vec()].concat();
    // Three million opcodes.
    let long = [b"\x80\x02".to_vec(), b"N0".repeat(1_500_000), b".".to_vec()].concat();
    for (pickle, cause) in [
        (cycle, "holds no state dict"),
        (nested, "holds no state dict"),
        (copies, "size (values)"),
        (long, "size (opcodes)"),
    ] {
        let message = refusal(&pickle);
        assert!(message.contains(cause), "{message} for {cause}");
    }
    // One tensor of 2048 bytes under nine names.
    let one = tensor(b"M\0\x02", b"K\0", b"M\0\x02\x85", b"K\x01\x85");
    let names: Vec<u8> = (b'a'..b'i').flat_map(|name| [b'U', 1, name, b'h', 1, b's']).collect();
    let shared = [&b"\x80\x02}"[..], &one[3..one.len() - 2], b"q\x01s", &names, b"."].concat();
    let message = Case::new(BARE, &archive(&shared, &[0; 2048])).refusal();
    assert!(message.contains("many times larger than the file"), "{message}");
}

#[test]
fn other_files_are_no_checkpoints() {
    let good = tensor(b"K\x02", b"K\0", b"K\x02\x85", b"K\x01\x85");
    let mut compressed = archive(&good, &[0; 8]);
    // The compression method in the central directory: 8 is deflate.
    let at = compressed.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    compressed[at + 10] = 8;
    for (checkpoint, cause) in [
        (b"".to_vec(), "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "a Git LFS pointer"),
        (b"RIFF....WAVEfmt ".to_vec(), "not a PyTorch checkpoint"),
        (compressed, "a compressed archive"),
        (b"PK\x03\x04 and nothing else".to_vec(), "truncated or damaged archive"),
    ] {
        let message = Case::new(BARE, &checkpoint).refusal();
        assert!(message.contains(cause) && message.contains("model.pt"), "{message}");
    }
}

#[test]
fn truncation_at_every_byte_is_an_error() {
    for name in ["archive", "legacy"] {
        let checkpoint = fixture(name);
        for len in 0..checkpoint.len() {
            let message = Case::new(BARE, &checkpoint[..len]).refusal();
            assert!(message.contains("model.pt: "), "{name} cut at {len}: {message}");
        }
    }
}

fn opcode() -> impl Strategy<Value = u8> {
    prop::sample::select(b"(01NIJKMGXUTBC]}lt)daesuqrhjcRbQ\x85\x86\x87\x88\x8a\x93\x94".to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    /// Half of the bytes are opcodes that the machine knows: pure noise ends at its first byte.
    #[test]
    fn random_pickles_never_panic(pickle in vec(prop_oneof![any::<u8>(), opcode()], 0..200)) {
        let pickle = [b"\x80\x02", pickle.as_slice()].concat();
        let _ = Case::new(BARE, &archive(&pickle, &[0; 8])).convert(&Default::default());
    }

    #[test]
    fn mutated_checkpoints_never_panic(
        name in prop::sample::select(vec!["archive", "legacy_trained", "strides", "legacy_strides"]),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut checkpoint = fixture(name);
        for (at, byte) in changes {
            let at = at.index(checkpoint.len());
            checkpoint[at] = byte;
        }
        let _ = Case::new(BARE, &checkpoint).convert(&Default::default());
    }
}
