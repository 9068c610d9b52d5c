//! Hashes that are stored and compared as numbers.

use sha2::{Digest as _, Sha256};

/// Returns the first 64 bits of the SHA-256 hash.
pub fn hash64(bytes: impl AsRef<[u8]>) -> u64 {
    finish64(Sha256::new_with_prefix(bytes))
}

/// Returns the first 64 bits of a hash that was computed in parts.
pub fn finish64(hash: Sha256) -> u64 {
    let digest: [u8; 32] = hash.finalize().into();
    u64::from_be_bytes(std::array::from_fn(|at| digest[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_the_same_in_every_version_and_in_parts() {
        assert_eq!(hash64(b"abc"), 0xba78_16bf_8f01_cfea);
        let parts = Sha256::new().chain_update("a").chain_update("bc");
        assert_eq!(finish64(parts), hash64("abc"));
    }
}
