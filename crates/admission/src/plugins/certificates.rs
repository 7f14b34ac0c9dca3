//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who may approve and sign for a signer, and
//! what a client certificate may not say.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use auth::{Authorizer, Decision};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::json::{at, forbidden, is, same};
use crate::{Attributes, Operation, Plugin};

const GROUP: &str = "certificates.k8s.io";

fn csr(a: &Attributes<'_>, subresource: &str) -> bool {
    a.group == GROUP && a.resource == "certificatesigningrequests" && a.subresource == subresource
}

async fn may(authorizer: &dyn Authorizer, a: &Attributes<'_>, verb: &str, signer: &str) -> bool {
    let ask = |name: &str| auth::Attributes {
        user: a.user.clone(),
        verb: verb.to_owned(),
        group: GROUP.to_owned(),
        version: "*".to_owned(),
        resource: "signers".to_owned(),
        name: name.to_owned(),
        is_resource: true,
        ..auth::Attributes::default()
    };
    let any = signer
        .split_once('/')
        .map_or_else(|| signer.to_owned(), |(domain, _)| format!("{domain}/*"));
    authorizer.authorize(&ask(signer)).await.0 == Decision::Allow
        || authorizer.authorize(&ask(&any)).await.0 == Decision::Allow
}

/// The `approve` verb on the signer.
pub struct Approval(pub Arc<dyn Authorizer>);

#[async_trait]
impl Plugin for Approval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        csr(a, "approval") && a.operation == Operation::Update
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        // The stored object's signer counts, whatever the request says.
        let signer = old.map(|o| at(o, "/spec/signerName")).unwrap_or_default();
        if may(&*self.0, a, "approve", signer).await {
            return Ok(());
        }
        let why = format!("user not permitted to approve requests with signerName {signer:?}");
        Err(forbidden(a, new, &why))
    }
}

/// The `sign` verb on the signer.
pub struct Signing(pub Arc<dyn Authorizer>);

#[async_trait]
impl Plugin for Signing {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        csr(a, "status") && a.operation == Operation::Update
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let (Some(new), Some(old)) = (new, old) else {
            return Ok(());
        };
        if same(new, old, "/status/certificate") && same(new, old, "/status/conditions") {
            return Ok(());
        }
        let signer = at(old, "/spec/signerName");
        if may(&*self.0, a, "sign", signer).await {
            return Ok(());
        }
        Err(forbidden(
            a,
            Some(new),
            &format!("user not permitted to sign requests with signerName {signer:?}"),
        ))
    }
}

/// Nobody asks for a client certificate in `system:masters`.
pub struct SubjectRestriction;

/// The request inside a CertificateSigningRequest.
pub(super) fn request(object: &Value) -> Result<pki::csr::Request, String> {
    let pem = STANDARD
        .decode(at(object, "/spec/request"))
        .map_err(|_| "bad base64".to_owned())?;
    let pem = String::from_utf8(pem).map_err(|_| "not PEM".to_owned())?;
    pki::csr::parse(&pem).map_err(|e| e.to_string())
}

#[async_trait]
impl Plugin for SubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        is(a, GROUP, "certificatesigningrequests") && a.operation == Operation::Create
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        new: Option<&Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
        let Some(new) = new.filter(|n| at(n, "/spec/signerName") == SIGNER) else {
            return Ok(());
        };
        let asked = request(new)
            .map_err(|e| forbidden(a, Some(new), &format!("failed to parse CSR: {e}")))?;
        if asked.organizations.iter().any(|o| o == "system:masters") {
            let why = format!("use of {SIGNER} signer with system:masters group is not allowed");
            return Err(forbidden(a, Some(new), &why));
        }
        Ok(())
    }
}
