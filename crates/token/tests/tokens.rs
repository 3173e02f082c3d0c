//! Tokens from outside: every method, the original's own tokens, and what must not pass.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ferrite_token::Error;
use ferrite_token::jwt::Jwt;

const NOW: u64 = 1_800_000_000;
const METHODS: &[&str] = &[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "HS256",
    "HS384", "HS512", "EdDSA",
];

fn key(name: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/keys")
        .join(name);
    path.to_str().expect("a path of this repository").to_owned()
}

fn files(method: &str) -> (String, Option<String>) {
    match &method[..2] {
        "RS" | "PS" => (key("rsa.pem"), Some(key("rsa.pub.pem"))),
        "ES" => (
            key(&format!("ec{}.pem", &method[2..])),
            Some(key(&format!("ec{}.pub.pem", &method[2..]))),
        ),
        "HS" => (key("hmac.key"), None),
        _ => (key("ed.pem"), Some(key("ed.pub.pem"))),
    }
}

fn jwt(options: &str) -> Jwt {
    Jwt::from_options(options).unwrap_or_else(|error| panic!("{options}: {error:?}"))
}

fn both(method: &str) -> Jwt {
    let (private, public) = files(method);
    let public = public.map_or(String::new(), |path| format!("pub-key={path},"));
    jwt(&format!("priv-key={private},{public}sign-method={method}"))
}

fn refused(options: &str) -> Error {
    Jwt::from_options(options).expect_err(options)
}

#[test]
fn every_method_signs_what_it_and_its_public_key_accept() {
    for method in METHODS {
        let signer = both(method);
        let token = signer.sign("ann & <bob>", 7, NOW).expect(method);
        let known = Some(("ann & <bob>".to_owned(), 7));
        assert_eq!(signer.verify(&token, NOW), known, "{method}");
        let Some(public) = files(method).1 else {
            continue;
        };
        let verifier = jwt(&format!("pub-key={public},sign-method={method}"));
        assert_eq!(verifier.verify(&token, NOW), known, "{method}");
        assert_eq!(verifier.sign("ann", 7, NOW), Err(Error::VerifyOnly));
    }
}

#[test]
fn tokens_that_the_original_signed_are_accepted() {
    let text = include_str!("tokens.txt");
    let mut seen = Vec::new();
    for line in text.lines() {
        let (method, token) = line.split_once(' ').expect("a method and its token");
        assert_eq!(
            both(method).verify(token, NOW),
            Some(("root".to_owned(), 3)),
            "{method}"
        );
        // a hundred years later
        assert_eq!(both(method).verify(token, NOW * 3), None, "{method}");
        seen.push(method);
    }
    // 3.5.1 does not know EdDSA yet; RFC 8037 has a vector for it
    assert_eq!(seen, METHODS[..12]);
}

#[test]
fn header_and_claims_are_written_as_the_original_writes_them() {
    let captured = include_str!("tokens.txt");
    for line in captured.lines() {
        let (method, token) = line.split_once(' ').expect("a method and its token");
        let theirs: Vec<&str> = token.split('.').collect();
        let claims: serde_json::Value =
            serde_json::from_slice(&BASE64.decode(theirs[1]).expect("base64")).expect("JSON");
        let until = claims["exp"].as_u64().expect("a number");
        let (private, _) = files(method);
        let jwt = jwt(&format!(
            "priv-key={private},sign-method={method},ttl=876000h"
        ));
        let ours = jwt
            .sign("root", 3, until - 876_000 * 3_600)
            .expect("it signs");
        let ours: Vec<&str> = ours.split('.').collect();
        assert_eq!(ours[..2], theirs[..2], "{method}");
        if ["RS", "HS", "Ed"].contains(&&method[..2]) {
            assert_eq!(ours[2], theirs[2], "{method} draws nothing");
        }
    }
}

#[test]
fn a_token_is_good_until_its_time_is_up() {
    let (private, _) = files("ES256");
    for (ttl, seconds) in [("", 300), (",ttl=1h30m", 5_400), (",ttl=1.5s", 1)] {
        let jwt = jwt(&format!("priv-key={private},sign-method=ES256{ttl}"));
        let token = jwt.sign("ann", 1, NOW).expect("it signs");
        assert!(jwt.verify(&token, NOW + seconds - 1).is_some(), "{ttl}");
        assert!(jwt.verify(&token, NOW + seconds).is_none(), "{ttl}");
    }
    let past = jwt(&format!("priv-key={private},sign-method=ES256,ttl=-1s"));
    let token = past.sign("ann", 1, NOW).expect("it signs");
    assert!(past.verify(&token, NOW).is_none());
}

#[test]
fn a_changed_token_is_refused() {
    for method in ["RS256", "PS384", "ES512", "HS256", "EdDSA"] {
        let jwt = both(method);
        let token = jwt.sign("ann", 7, NOW).expect("it signs");
        for at in 0..token.len() {
            // a character with bits that are dropped may stand at the end of a part
            if matches!(token.as_bytes().get(at + 1), None | Some(b'.')) {
                continue;
            }
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            if at % 7 == 0 {
                assert_eq!(jwt.verify(&changed, NOW), None, "{method} at {at}");
            }
        }
        let [header, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else {
            panic!("three parts");
        };
        let rich = BASE64.encode(r#"{"exp":1900000000,"revision":7,"username":"root"}"#);
        for forged in [
            String::new(),
            ".".into(),
            "..".into(),
            format!("{header}.{claims}"),
            format!("{header}.{claims}."),
            format!("{header}.{claims}.{signature}."),
            format!("{header}.{claims}.{signature}.{signature}"),
            format!("{header}.{claims}.{signature}="),
            format!("{header}.{rich}.{signature}"),
            format!("Bearer {token}"),
            "\u{e9}.\u{e9}.\u{e9}".into(),
        ] {
            assert_eq!(jwt.verify(&forged, NOW), None, "{method}: {forged}");
        }
    }
}

#[test]
fn a_token_does_not_choose_how_it_is_checked() {
    let claims = BASE64.encode(r#"{"exp":1900000000,"revision":7,"username":"root"}"#);
    let rsa = both("RS256");
    for alg in ["none", "None", "", "HS256", "RS384", "PS256"] {
        let header = BASE64.encode(format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#));
        assert_eq!(rsa.verify(&format!("{header}.{claims}."), NOW), None);
        assert_eq!(rsa.verify(&format!("{header}.{claims}.AAAA"), NOW), None);
    }
    for header in ["{}", "[]", "null", r#"{"alg":1}"#, "not JSON"] {
        let header = BASE64.encode(header);
        assert_eq!(rsa.verify(&format!("{header}.{claims}.AAAA"), NOW), None);
    }
    // the public key, which everybody has, as a shared secret
    let confused = jwt(&format!(
        "priv-key={},sign-method=HS256",
        key("rsa.pub.pem")
    ));
    let token = confused.sign("root", 7, NOW).expect("it signs");
    assert!(confused.verify(&token, NOW).is_some());
    assert_eq!(rsa.verify(&token, NOW), None);
    // one family, another hash, the same key
    let longer = both("RS512").sign("root", 7, NOW).expect("it signs");
    assert_eq!(rsa.verify(&longer, NOW), None);
    let padded = both("PS256").sign("root", 7, NOW).expect("it signs");
    assert_eq!(rsa.verify(&padded, NOW), None);
}

/// A token with these claims, signed by the shared secret.
fn with_claims(claims: &str) -> Option<(String, u64)> {
    use hmac::Mac as _;
    let header = BASE64.encode(r#"{"alg":"HS256"}"#);
    let input = format!("{header}.{}", BASE64.encode(claims));
    let secret = std::fs::read(key("hmac.key")).expect("the key is there");
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&secret).expect("any length");
    mac.update(input.as_bytes());
    let signature = BASE64.encode(mac.finalize().into_bytes());
    both("HS256").verify(&format!("{input}.{signature}"), NOW)
}

#[test]
fn claims_are_read_as_the_original_reads_them() {
    let ann = |revision| Some(("ann".to_owned(), revision));
    for (claims, expected) in [
        // without an end, or with one that counts as none
        (r#"{"username":"ann","revision":3}"#, ann(3)),
        (r#"{"username":"ann","revision":3,"exp":0}"#, ann(3)),
        (r#"{"username":"ann","revision":3.9,"exp":1.9e9}"#, ann(3)),
        (
            r#"{"username":"ann","revision":3,"iat":1900000000}"#,
            ann(3),
        ),
        (r#"{"username":"ann","revision":3,"exp":1800000000}"#, None),
        (
            r#"{"username":"ann","revision":3,"exp":1800000000.5}"#,
            None,
        ),
        (
            r#"{"username":"ann","revision":3,"exp":1800000001}"#,
            ann(3),
        ),
        (
            r#"{"username":"ann","revision":3,"exp":"1900000000"}"#,
            None,
        ),
        (r#"{"username":"ann","revision":3,"exp":null}"#, None),
        (r#"{"username":"ann","revision":3,"nbf":1800000001}"#, None),
        (
            r#"{"username":"ann","revision":3,"nbf":1800000000}"#,
            ann(3),
        ),
        (r#"{"username":"ann","revision":"3"}"#, None),
        (r#"{"username":"ann"}"#, None),
        (r#"{"revision":3}"#, None),
        (r#"{"username":1,"revision":3}"#, None),
        (
            r#"{"username":"bob","username":"ann","revision":3}"#,
            ann(3),
        ),
        (r#"{"username":"ann","revision":3} "#, ann(3)),
        (r#"{"username":"ann","revision":3}{}"#, None),
        (r#"["ann",3]"#, None),
        ("", None),
    ] {
        assert_eq!(with_claims(claims), expected, "{claims}");
    }
}

#[test]
fn every_form_of_a_key_file_is_read() {
    let rsa = both("RS256").sign("ann", 1, NOW).expect("it signs");
    for name in ["rsa.pub.pem", "rsa.pkcs1.pub.pem", "rsa.crt.pem"] {
        let jwt = jwt(&format!("pub-key={},sign-method=RS256", key(name)));
        assert!(jwt.verify(&rsa, NOW).is_some(), "{name}");
    }
    for (method, name) in [
        ("RS256", "rsa.pkcs1.pem"),
        ("PS256", "rsa.pkcs1.pem"),
        ("ES256", "ec256.pkcs8.pem"),
        ("ES384", "ec384.pkcs8.pem"),
        ("ES512", "ec512.pkcs8.pem"),
    ] {
        let (_, public) = files(method);
        let public = public.expect("a public key");
        let jwt = jwt(&format!(
            "priv-key={},pub-key={public},sign-method={method}",
            key(name)
        ));
        let token = jwt.sign("ann", 1, NOW).expect("it signs");
        assert!(both(method).verify(&token, NOW).is_some(), "{method}");
    }
}

#[test]
fn options_are_refused_in_the_originals_words() {
    let invalid = "auth: invalid auth options";
    let rsa = key("rsa.pem");
    let public = key("rsa.pub.pem");
    let ec = key("ec256.pem");
    let ed = key("ed.pem");
    let no_pem = key("hmac.key");
    let not_pem = "invalid key: Key must be a PEM encoded PKCS1 or PKCS8 key";
    for (options, text) in [
        (String::new(), invalid),
        (",".into(), invalid),
        ("sign-method".into(), invalid),
        ("sign-method=RS256=".into(), invalid),
        (format!("priv-key={rsa}"), invalid),
        (format!("priv-key={rsa},sign-method="), invalid),
        (format!("priv-key={rsa},sign-method=RS257"), invalid),
        (format!("priv-key={rsa},sign-method=rs256"), invalid),
        (
            format!("priv-key={rsa},priv-key={rsa},sign-method=RS256"),
            invalid,
        ),
        (format!("priv-key={rsa},sign-method=RS256,ttl=5"), invalid),
        (format!("priv-key={rsa}.gone,sign-method=RS256"), invalid),
        (
            format!("priv-key={rsa},pub-key={rsa}.gone,sign-method=RS256"),
            invalid,
        ),
        ("sign-method=RS256".into(), "auth: missing key data"),
        ("sign-method=PS512".into(), "auth: missing key data"),
        ("sign-method=ES256".into(), "auth: missing key data"),
        ("sign-method=EdDSA".into(), "auth: missing key data"),
        ("sign-method=HS256".into(), "auth: missing key data"),
        (
            format!("pub-key={public},sign-method=HS256"),
            "auth: missing key data",
        ),
        (
            "sign-method=none".into(),
            "unsupported signing method: *jwt.signingMethodNone",
        ),
        (
            format!("priv-key={ec},sign-method=RS256"),
            "x509: failed to parse private key",
        ),
        (
            format!("priv-key={ed},sign-method=RS256"),
            "key is not a valid RSA private key",
        ),
        (
            format!("priv-key={rsa},sign-method=ES256"),
            "key is not a valid ECDSA private key",
        ),
        (
            format!("priv-key={rsa},sign-method=EdDSA"),
            "key is not a valid Ed25519 private key",
        ),
        (
            format!("pub-key={public},sign-method=ES256"),
            "key is not a valid ECDSA public key",
        ),
        (
            format!("pub-key={public},sign-method=EdDSA"),
            "key is not a valid Ed25519 public key",
        ),
        (
            format!("pub-key={},sign-method=PS256", key("ed.pub.pem")),
            "key is not a valid RSA public key",
        ),
        (
            format!("priv-key={},sign-method=ES256", key("k1.pem")),
            "x509: unknown elliptic curve",
        ),
        (format!("priv-key={no_pem},sign-method=RS256"), not_pem),
        (format!("priv-key={no_pem},sign-method=ES256"), not_pem),
        (format!("pub-key={no_pem},sign-method=EdDSA"), not_pem),
    ] {
        let error = refused(&options).to_string();
        let exact = !text.starts_with("x509");
        assert!(
            if exact {
                error == text
            } else {
                error.starts_with(text)
            },
            "{options}: {error}"
        );
    }
    for (method, name) in [
        ("RS256", "rsa"),
        ("PS256", "rsa"),
        ("ES256", "ec256"),
        ("EdDSA", "ed"),
    ] {
        let options = format!(
            "priv-key={},pub-key={},sign-method={method}",
            files(method).0,
            key(&format!("{name}-other.pub.pem"))
        );
        assert_eq!(refused(&options), Error::KeyMismatch, "{method}");
    }
    let gone = refused(&format!("priv-key={rsa}.gone,sign-method=RS256"));
    let reason = gone.reason().unwrap_or_default();
    assert!(
        reason.contains(".gone: no such file or directory"),
        "{reason}"
    );
}

#[test]
fn a_key_of_another_curve_signs_nothing() {
    let jwt = jwt(&format!("priv-key={},sign-method=ES384", key("ec256.pem")));
    assert_eq!(
        jwt.sign("ann", 1, NOW),
        Err(Error::Sign("key is invalid".into()))
    );
    let token = both("ES256").sign("ann", 1, NOW).expect("it signs");
    assert_eq!(jwt.verify(&token, NOW), None);
}

#[test]
fn options_that_mean_nothing_are_named() {
    let (private, _) = files("EdDSA");
    let jwt = jwt(&format!(
        "priv-key={private},colour=red,sign-method=EdDSA,size=9"
    ));
    assert_eq!(jwt.unknown_options(), ["colour", "size"]);
}

#[test]
fn keys_are_not_shown() {
    let shown = format!("{:?}", both("HS256"));
    assert!(!shown.contains("secret"), "{shown}");
}
