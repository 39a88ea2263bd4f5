// SPDX-License-Identifier: Apache-2.0
//! Names of images, and of the container that only holds a pod: the same for all runtimes and Kubernetes.

/// Name of the container that holds a pod's namespaces, as Docker's shim called it first.
pub(super) const SANDBOX: &str = "POD";

/// Whether an image is called by a name rather than by its id: the kubelet has runtimes make containers by the latter.
pub(super) fn names_image(image: &str) -> bool {
    let is_id = image.len() == 64 && image.bytes().all(|b| b.is_ascii_hexdigit());
    !image.is_empty() && !image.starts_with("sha256:") && !is_id
}

/// `registry:5000/name:tag@digest` → name and tag.
pub(super) fn split_image(image: &str) -> (&str, Option<&str>) {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    match image.rsplit_once(':') {
        // What follows the colon of a registry's port holds a slash.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (image, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name and tag, with ports and digests in the way.
    #[test]
    fn images() {
        assert_eq!(split_image("localhost/busybox:test"), ("localhost/busybox", Some("test")));
        assert_eq!(split_image("reg:5000/a/b"), ("reg:5000/a/b", None));
        assert_eq!(split_image("reg:5000/a:1@sha256:ff"), ("reg:5000/a", Some("1")));
    }
}
