//! RAM 2015-05-01 through the API of a real daemon, and what users may do who sign as themselves.

mod support;

use std::cell::Cell;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use support::api;
use support::daemon::Daemon;
use support::signer::AccessKey;

const ROLE: &str = "AliyunECSDiskEncryptDefaultRole";
const ROLE_POLICY: &str = "AliyunECSDiskEncryptRolePolicy";

struct Account {
    daemon: Daemon,
    nonce: Cell<u32>,
    _folder: tempfile::TempDir,
}

impl Account {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["--nbd-tcp", "off", "--http", "127.0.0.1:0"];
        let daemon = Daemon::start_with(&folder.path().join("data"), &arguments);
        Self { daemon, nonce: Cell::new(0), _folder: folder }
    }

    fn ask(&self, action: &str, parameters: &[(&str, &str)]) -> (u16, Value) {
        api::call(&self.daemon.api_socket(), api::RAM, action, parameters)
    }

    fn ok(&self, action: &str, parameters: &[(&str, &str)]) -> Value {
        let (status, answer) = self.ask(action, parameters);
        assert_eq!(status, 200, "{action} {parameters:?}: {answer}");
        answer
    }

    /// Refused with this code, which the trail has too.
    fn refused(&self, action: &str, parameters: &[(&str, &str)], expected: (u16, &str)) {
        let (status, answer) = self.ask(action, parameters);
        let found = (status, answer["Code"].as_str().unwrap_or_default());
        assert_eq!(found, expected, "{action} {parameters:?}: {answer}");
        let event = self.daemon.events(action).remove(0);
        assert_eq!(event["errorCode"], expected.1, "{event}");
        assert_eq!(event["requestId"], answer["RequestId"], "{event}");
    }

    fn user(&self, name: &str) -> AccessKey {
        self.ok("CreateUser", &[("UserName", name)]);
        let made = self.ok("CreateAccessKey", &[("UserName", name)]);
        let text = |field: &str| made["AccessKey"][field].as_str().unwrap().to_owned();
        AccessKey { id: text("AccessKeyId"), secret: text("AccessKeySecret") }
    }

    fn policy(&self, name: &str, statements: &Value) {
        let document = json!({"Version": "1", "Statement": statements}).to_string();
        self.ok("CreatePolicy", &[("PolicyName", name), ("PolicyDocument", &document)]);
    }

    fn attach(&self, user: &str, kind: &str, policy: &str) {
        let parameters = [("UserName", user), ("PolicyType", kind), ("PolicyName", policy)];
        self.ok("AttachPolicyToUser", &parameters);
    }

    /// Calls as the user whose access key it is: status and answer.
    fn answer_to(
        &self,
        key: &AccessKey,
        what: (&str, &str),
        parameters: &[(&str, &str)],
    ) -> (u16, Value) {
        let nonce = self.nonce.replace(self.nonce.get() + 1).to_string();
        api::call_signed(self.daemon.http(), key, what, parameters, &nonce)
    }

    /// Calls as the user whose access key it is: the code, or `ok`.
    fn by(&self, key: &AccessKey, what: (&str, &str), parameters: &[(&str, &str)]) -> String {
        let (status, answer) = self.answer_to(key, what, parameters);
        match status {
            200 => "ok".to_owned(),
            _ => answer["Code"].as_str().unwrap().to_owned(),
        }
    }
}

#[test]
fn users_come_and_go() {
    let account = Account::start();
    let ann = [("UserName", "ann"), ("DisplayName", "Ann B."), ("Comments", "backup")];
    let made = account.ok("CreateUser", &ann)["User"].clone();
    assert_eq!((&made["UserName"], &made["Comments"]), (&json!("ann"), &json!("backup")));
    assert_eq!(made["UserId"].as_str().unwrap().len(), 18);
    assert_eq!(account.ok("GetUser", &ann[..1])["User"]["UserId"], made["UserId"]);
    let event = account.daemon.events("CreateUser").remove(0);
    assert_eq!(event["serviceName"], "Ram");
    assert_eq!(event["requestParameters"]["UserName"], "ann");
    assert_eq!(event["responseElements"]["UserId"], made["UserId"]);
    assert_eq!(
        (&event["resourceType"], &event["resourceName"]),
        (&json!("ACS::RAM::User"), &json!("ann"))
    );

    account.refused("CreateUser", &ann, (409, "EntityAlreadyExists.User"));
    account.refused("CreateUser", &[], (400, "MissingParameter"));
    let named = |name| [("UserName", name)];
    account.refused("CreateUser", &named("a b"), (400, "InvalidParameter.UserName.InvalidChars"));
    let long = "x".repeat(65);
    account.refused("CreateUser", &named(&long), (400, "InvalidParameter.UserName.Length"));
    let bad = [("UserName", "eve"), ("Email", "nowhere")];
    account.refused("CreateUser", &bad, (400, "InvalidParameter.Email.Format"));
    for action in ["GetUser", "DeleteUser", "CreateAccessKey", "ListPoliciesForUser"] {
        account.refused(action, &named("nobody"), (404, "EntityNotExist.User"));
    }

    for name in ["bob", "carl"] {
        account.ok("CreateUser", &named(name));
    }
    let first = account.ok("ListUsers", &[("MaxItems", "2")]);
    let names = |answer: &Value| -> Vec<String> {
        let users = answer["Users"]["User"].as_array().unwrap();
        users.iter().map(|user| user["UserName"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        (names(&first), &first["IsTruncated"]),
        (vec!["ann".into(), "bob".into()], &json!(true))
    );
    let rest = account.ok("ListUsers", &[("Marker", first["Marker"].as_str().unwrap())]);
    assert_eq!((names(&rest), &rest["IsTruncated"]), (vec!["carl".into()], &json!(false)));

    account.ok("DeleteUser", &named("ann"));
    account.refused("GetUser", &named("ann"), (404, "EntityNotExist.User"));
}

#[test]
fn an_access_key_is_told_once_and_works_while_it_is_active() {
    let account = Account::start();
    let key = account.user("ann");
    assert!(key.id.starts_with("LTAI") && key.id.len() == 24 && key.secret.len() == 30);
    account.attach("ann", "System", "AliyunKMSReadOnlyAccess");
    let list = (api::KMS, "ListKeys");
    assert_eq!(account.by(&key, list, &[]), "ok");
    let event = account.daemon.events("ListKeys").remove(0);
    assert_eq!(event["userIdentity"]["type"], "ram-user");
    assert_eq!(event["userIdentity"]["userName"], "ann");
    assert_eq!(event["userIdentity"]["accessKeyId"], key.id.as_str());
    assert_eq!(event["sourceIpAddress"], "127.0.0.1");

    let wrong = AccessKey { secret: "x".repeat(30), ..key.clone() };
    assert_eq!(account.by(&wrong, list, &[]), "SignatureDoesNotMatch");
    let this = [("UserName", "ann"), ("UserAccessKeyId", key.id.as_str())];
    account.ok("UpdateAccessKey", &[&this[..], &[("Status", "Inactive")]].concat());
    assert_eq!(account.by(&key, list, &[]), "Forbidden.AccessKey");
    account.ok("UpdateAccessKey", &[&this[..], &[("Status", "Active")]].concat());
    assert_eq!(account.by(&key, list, &[]), "ok");

    account.ok("CreateAccessKey", &this[..1]);
    account.refused("CreateAccessKey", &this[..1], (409, "LimitExceeded.User.AccessKey"));
    account.refused("DeleteUser", &this[..1], (409, "DeleteConflict.User.AccessKey"));
    let listed = account.ok("ListAccessKeys", &this[..1]);
    assert_eq!(listed["AccessKeys"]["AccessKey"].as_array().unwrap().len(), 2);
    assert!(!listed.to_string().contains(&key.secret));
    account.ok("DeleteAccessKey", &this);
    assert_eq!(account.by(&key, list, &[]), "InvalidAccessKeyId.NotFound");
    account.refused("DeleteAccessKey", &this, (404, "EntityNotExist.User.AccessKey"));
    let whose = [("UserName", "ann"), ("UserAccessKeyId", "x"), ("Status", "On")];
    account.refused("UpdateAccessKey", &whose, (400, "InvalidParameter"));

    // Neither the trail nor the catalog has the secret.
    for entry in walk(account.daemon.data_dir()) {
        let bytes = std::fs::read(&entry).unwrap_or_default();
        let secret = key.secret.as_bytes();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{entry:?}");
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn policies_are_read_strictly_and_kept_while_they_are_held() {
    let account = Account::start();
    let read = json!([{"Effect": "Allow", "Action": "kms:Describe*", "Resource": "*"}]);
    account.policy("reader", &read);
    let this = [("PolicyName", "reader"), ("PolicyType", "Custom")];
    let shown = account.ok("GetPolicy", &this);
    let document = shown["DefaultPolicyVersion"]["PolicyDocument"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(document).unwrap()["Statement"], read);
    assert_eq!(shown["Policy"]["PolicyDocument"], document);
    let create = |name, document, expected| {
        let parameters = [("PolicyName", name), ("PolicyDocument", document)];
        account.refused("CreatePolicy", &parameters, expected);
    };
    create("reader", document, (409, "EntityAlreadyExists.Policy"));
    create("AliyunKMSFullAccess", document, (409, "EntityAlreadyExists.Policy"));
    create("a_b", document, (400, "InvalidParameter.PolicyName.InvalidChars"));
    let long = " ".repeat(6145);
    create("big", &long, (400, "InvalidParameter.PolicyDocument.Length"));
    for wrong in [
        "x",
        r#"{"Version":"2","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#,
        r#"{"Version":"1","Statement":[]}"#,
        r#"{"Version":"1","Statement":[{"Effect":"Maybe","Action":"*","Resource":"*"}]}"#,
        r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms","Resource":"*"}]}"#,
        r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"*","Resource":"key/k"}]}"#,
        r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"*"}]}"#,
        r#"{"Version":"1","Statement":[{"Effect":"Allow","Effect":"Deny","Action":"*","Resource":"*"}]}"#,
        r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"*","Resource":"*","Else":1}]}"#,
        r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"Near":{"a":"b"}}}]}"#,
        r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"IpAddress":{"acs:SourceIp":"home"}}}]}"#,
    ] {
        create("wrong", wrong, (400, "MalformedPolicyDocument"));
    }
    account.ok("CreateUser", &[("UserName", "ann")]);
    account.attach("ann", "Custom", "reader");
    let held = [("UserName", "ann"), this[0], this[1]];
    account.refused("AttachPolicyToUser", &held, (409, "EntityAlreadyExists.User.Policy"));
    account.refused("DeletePolicy", &this[..1], (409, "DeleteConflict.Policy.User"));
    account.refused("DeleteUser", &held[..1], (409, "DeleteConflict.User.Policy"));
    let unknown = [("UserName", "ann"), ("PolicyType", "Custom"), ("PolicyName", "none")];
    account.refused("AttachPolicyToUser", &unknown, (404, "EntityNotExist.Policy"));
    account.refused("DetachPolicyFromUser", &unknown, (404, "EntityNotExist.User.Policy"));
    let odd = [("PolicyName", "reader"), ("PolicyType", "Mine")];
    account.refused("GetPolicy", &odd, (400, "InvalidParameter.PolicyType"));
    let listed = account.ok("ListPoliciesForUser", &held[..1]);
    assert_eq!(listed["Policies"]["Policy"][0]["PolicyName"], "reader");
    let custom = account.ok("ListPolicies", &[("PolicyType", "Custom")]);
    assert_eq!(custom["Policies"]["Policy"][0]["AttachmentCount"], 1);
    account.ok("DetachPolicyFromUser", &held);
    account.ok("DeletePolicy", &this[..1]);
    account.refused("GetPolicy", &this, (404, "EntityNotExist.Policy"));
}

#[test]
fn roles_are_made_and_hold_policies() {
    let account = Account::start();
    let trust = json!({"Version": "1", "Statement": [{
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Service": ["ecs.aliyuncs.com"]},
    }]})
    .to_string();
    let role = [("RoleName", "r1"), ("AssumeRolePolicyDocument", trust.as_str())];
    let made = account.ok("CreateRole", &role)["Role"].clone();
    assert_eq!(made["Arn"], "acs:ram::1000000000000001:role/r1");
    assert_eq!(account.ok("GetRole", &role[..1])["Role"]["RoleId"], made["RoleId"]);
    account.refused("CreateRole", &role, (409, "EntityAlreadyExists.Role"));
    let wrong = [("RoleName", "r2"), ("AssumeRolePolicyDocument", "{}")];
    account.refused("CreateRole", &wrong, (400, "MalformedPolicyDocument"));
    account.refused("GetRole", &[("RoleName", "r2")], (404, "EntityNotExist.Role"));
    let listed = account.ok("ListRoles", &[]);
    let names: Vec<&Value> =
        listed["Roles"]["Role"].as_array().unwrap().iter().map(|role| &role["RoleName"]).collect();
    assert_eq!(names, [ROLE, "r1"]);

    let policy = [role[0], ("PolicyType", "System"), ("PolicyName", "ReadOnlyAccess")];
    account.ok("AttachPolicyToRole", &policy);
    account.refused("AttachPolicyToRole", &policy, (409, "EntityAlreadyExists.Role.Policy"));
    account.refused("DeleteRole", &role[..1], (409, "DeleteConflict.Role.Policy"));
    let held = account.ok("ListPoliciesForRole", &role[..1]);
    assert_eq!(held["Policies"]["Policy"][0]["PolicyType"], "System");
    account.ok("DetachPolicyFromRole", &policy);
    account.refused("DetachPolicyFromRole", &policy, (404, "EntityNotExist.Role.Policy"));
    account.ok("DeleteRole", &role[..1]);
}

#[test]
fn who_gives_a_policy_away_needs_permission_on_it_too() {
    let account = Account::start();
    let key = account.user("ann");
    let document = r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:*",
        "Resource":"*"}]}"#;
    for name in ["small", "other"] {
        account.ok("CreatePolicy", &[("PolicyName", name), ("PolicyDocument", document)]);
    }
    let role = [("RoleName", "AliyunECSDiskEncryptDefaultRole")];
    let giver = json!({"Version": "1", "Statement": [{
        "Effect": "Allow",
        "Action": ["ram:AttachPolicy*", "ram:DetachPolicy*"],
        "Resource": ["acs:ram:*:*:user/*", "acs:ram:*:*:role/*", "acs:ram:*:*:policy/small"],
    }]});
    let giver = giver.to_string();
    account.ok("CreatePolicy", &[("PolicyName", "giver"), ("PolicyDocument", &giver)]);
    account.attach("ann", "Custom", "giver");
    let user = [("UserName", "ann")];
    let ask = |action: &str, holder: &[(&str, &str)], kind: &str, name: &str| {
        let policy = [("PolicyType", kind), ("PolicyName", name)];
        account.by(&key, (api::RAM, action), &[holder, &policy].concat())
    };
    for (verb, holder) in
        [("PolicyToUser", &user), ("PolicyToRole", &role), ("PolicyFromUser", &user)]
    {
        let verb = if verb.contains("To") { "Attach" } else { "Detach" }.to_owned() + verb;
        assert_eq!(ask(&verb, holder, "Custom", "small"), "ok", "{verb}");
        assert_eq!(ask(&verb, holder, "Custom", "other"), "NoPermission", "{verb}");
        assert_eq!(ask(&verb, holder, "System", "AdministratorAccess"), "NoPermission", "{verb}");
    }
    assert_eq!(ask("DetachPolicyFromRole", &role, "Custom", "other"), "NoPermission");
    assert_eq!(ask("DetachPolicyFromRole", &role, "Custom", "small"), "ok");
}

#[test]
fn a_user_may_what_the_policies_say_and_nothing_else() {
    let account = Account::start();
    let key = account.user("ann");
    let made = account.daemon.json(&["key", "create"]);
    let id = made["KeyId"].as_str().unwrap();
    let describe = |id| account.by(&key, (api::KMS, "DescribeKey"), &[("KeyId", id)]);
    assert_eq!(describe(id), "Forbidden.NoPermission");
    assert_eq!(describe("no-such-key"), "Forbidden.NoPermission", "strangers learn nothing");
    assert_eq!(account.by(&key, (api::ECS, "DescribeDisks"), &[]), "Forbidden.RAM");
    assert_eq!(account.by(&key, (api::RAM, "ListUsers"), &[]), "NoPermission");
    let (_, told) = account.answer_to(&key, (api::ECS, "DescribeDisks"), &[]);
    let detail = &told["AccessDeniedDetail"];
    assert_eq!(detail["AuthAction"], "ecs:DescribeDisks");
    assert_eq!(
        (&detail["AuthPrincipalType"], &detail["NoPermissionType"]),
        (&json!("SubUser"), &json!("ImplicitDeny"))
    );
    let lookup = ("2020-07-06", "LookupEvents");
    assert_eq!(account.by(&key, lookup, &[]), "Forbidden.NoPermission");

    let tagged = json!({
        "StringEquals": {"kms:tag/team": "db"},
        "Bool": {"acs:SecureTransport": false},
        "IpAddress": {"acs:SourceIp": ["10.0.0.0/8", "127.0.0.1"]}});
    account.policy(
        "by-tag",
        &json!([
            {"Effect": "Allow", "Action": ["kms:Describe*", "kms:Encrypt"],
             "Resource": "acs:kms:*:*:key/*",
             "Condition": tagged},
        ]),
    );
    account.attach("ann", "Custom", "by-tag");
    assert_eq!(describe(id), "Forbidden.NoPermission", "the key has no tag yet");
    let tags = [("KeyId", id), ("Tags", r#"[{"TagKey":"team","TagValue":"db"}]"#)];
    let (status, answer) = api::call(&account.daemon.api_socket(), api::KMS, "TagResource", &tags);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(describe(id), "ok");
    let encrypt = [("KeyId", id), ("Plaintext", "eA==")];
    assert_eq!(account.by(&key, (api::KMS, "Encrypt"), &encrypt), "ok");
    assert_eq!(
        account.by(&key, (api::KMS, "DisableKey"), &[("KeyId", id)]),
        "Forbidden.NoPermission"
    );

    // A denial wins over everything.
    account.attach("ann", "System", "AliyunKMSFullAccess");
    assert_eq!(account.by(&key, (api::KMS, "ListKeys"), &[]), "ok");
    account.policy(
        "no-encrypt",
        &json!([
            {"Effect": "Deny", "Action": "kms:Encrypt", "Resource": "*"},
        ]),
    );
    account.attach("ann", "Custom", "no-encrypt");
    assert_eq!(account.by(&key, (api::KMS, "Encrypt"), &encrypt), "Forbidden.NoPermission");
    let denied = account.daemon.events("Encrypt").remove(0);
    assert_eq!(denied["errorCode"], "Forbidden.NoPermission");
    assert_eq!(denied["userIdentity"]["userName"], "ann");

    // Users with everything of RAM still make no access key of the owner's.
    account.attach("ann", "System", "AliyunRAMFullAccess");
    assert_eq!(account.by(&key, (api::RAM, "CreateAccessKey"), &[]), "ok");
    let own = account.ok("ListAccessKeys", &[("UserName", "ann")]);
    assert_eq!(own["AccessKeys"]["AccessKey"].as_array().unwrap().len(), 2);
}

#[test]
fn a_key_policy_adds_to_what_its_users_have() {
    let account = Account::start();
    let (ann, bob) = (account.user("ann"), account.user("bob"));
    account.attach("bob", "System", "AliyunKMSFullAccess");
    let socket = account.daemon.api_socket();
    let (_, listed) = api::call(&socket, api::KMS, "ListKmsInstances", &[]);
    let instance = listed["KmsInstances"]["KmsInstance"][0]["KmsInstanceId"].as_str().unwrap();
    let create = [("DKMSInstanceId", instance)];
    let (status, made) = api::call(&socket, api::KMS, "CreateKey", &create);
    assert_eq!(status, 200, "{made}");
    let id = made["KeyMetadata"]["KeyId"].as_str().unwrap();
    let encrypt = [("KeyId", id), ("Plaintext", "eA==")];
    let encrypts = |key| account.by(key, (api::KMS, "Encrypt"), &encrypt);
    assert_eq!((&*encrypts(&ann), &*encrypts(&bob)), ("Forbidden.NoPermission", "ok"));
    let policy = json!({"Version": "1", "Statement": [
        {"Effect": "Allow", "Action": "kms:Encrypt", "Resource": "*",
         "Principal": {"RAM": ["acs:ram::1000000000000001:user/ann"]}},
        {"Effect": "Deny", "Action": "kms:*", "Resource": "*",
         "Principal": {"RAM": ["acs:ram::1000000000000001:user/bob"]}},
    ]})
    .to_string();
    let set = [("KeyId", id), ("PolicyName", "default"), ("Policy", policy.as_str())];
    let (status, answer) = api::call(&socket, api::KMS, "SetKeyPolicy", &set);
    assert_eq!(status, 200, "{answer}");
    assert_eq!((&*encrypts(&ann), &*encrypts(&bob)), ("ok", "Forbidden.NoPermission"));
    let describe = (api::KMS, "DescribeKey");
    assert_eq!(account.by(&ann, describe, &encrypt[..1]), "Forbidden.NoPermission");
}

#[test]
fn a_user_with_disk_permissions_needs_none_of_the_keys() {
    let account = Account::start();
    let key = account.user("ann");
    account.attach("ann", "System", "AliyunECSFullAccess");
    let made = account.daemon.json(&["key", "create"]);
    let id = made["KeyId"].as_str().unwrap();
    let place = [("RegionId", "cn-hangzhou"), ("ZoneId", "cn-hangzhou-a"), ("Size", "1")];
    let encrypted = [&place[..], &[("Encrypted", "true"), ("KMSKeyId", id)]].concat();
    let create = (api::ECS, "CreateDisk");
    let untagged = "InvalidParameter.KMSKeyId.CMKUnauthorized";
    assert_eq!(account.by(&key, create, &encrypted), untagged);
    let tags =
        [("KeyId", id), ("Tags", r#"[{"TagKey":"acs:ecs:disk-encryption","TagValue":"true"}]"#)];
    let (status, answer) = api::call(&account.daemon.api_socket(), api::KMS, "TagResource", &tags);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(account.by(&key, create, &encrypted), "ok");
    let event = account.daemon.events("GenerateDataKey").remove(0);
    assert_eq!(event["userIdentity"]["type"], "assumed-role");
    let created = account.daemon.events("CreateDisk").remove(0);
    assert_eq!(created["userIdentity"]["userName"], "ann");
}

#[test]
fn development_starts_with_an_access_key_of_the_owner() {
    let account = Account::start();
    let file = account.daemon.data_dir().join("access-key.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let told: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let text = |name: &str| told[name].as_str().unwrap().to_owned();
    let key = AccessKey { id: text("AccessKeyId"), secret: text("AccessKeySecret") };
    assert_eq!(account.by(&key, (api::KMS, "CreateKey"), &[]), "ok");
    let event = account.daemon.events("CreateKey").remove(0);
    assert_eq!(event["userIdentity"]["type"], "root-account");
    assert_eq!(event["userIdentity"]["accessKeyId"], key.id.as_str());
    let made = account.daemon.events("CreateAccessKey").remove(0);
    assert_eq!(made["eventType"], "AliyunServiceEvent");
    assert!(!made.to_string().contains(&key.secret));
    account.ok("DeleteAccessKey", &[("UserAccessKeyId", &key.id)]);
    assert_eq!(account.by(&key, (api::KMS, "ListKeys"), &[]), "InvalidAccessKeyId.NotFound");
}

#[test]
fn the_first_access_key_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (file, unfinished) = (data.join("access-key.json"), data.join("access-key.json.new"));
    let restarted = |daemon: Daemon| {
        assert!(daemon.stop().success());
        Daemon::start(&data)
    };
    let daemon = Daemon::start(&data);
    let first = std::fs::read(&file).unwrap();
    let daemon = restarted(daemon);
    assert_eq!(std::fs::read(&file).unwrap(), first);
    // A crash before the file got its name.
    std::fs::rename(&file, &unfinished).unwrap();
    let daemon = restarted(daemon);
    assert_eq!(std::fs::read(&file).unwrap(), first);
    // Somebody took it away: the key is still theirs.
    std::fs::remove_file(&file).unwrap();
    let daemon = restarted(daemon);
    assert!(!file.exists() && !unfinished.exists());
    let listed = daemon.json(&["user", "access-keys", "--owner"]);
    assert_eq!(listed["AccessKeys"]["AccessKey"].as_array().unwrap().len(), 1);
}

#[test]
fn without_role_or_tag_the_disk_service_uses_no_key_but_its_own() {
    let account = Account::start();
    let daemon = &account.daemon;
    let made = daemon.json(&["key", "create"]);
    let id = made["KeyId"].as_str().unwrap();
    let by_service = daemon.disk("own", "1M");
    let by_customer = daemon.disk_with("byok", "1M", &["--key-id", id]);
    for disk in [&by_service, &by_customer] {
        daemon.ok(&["disk", "detach", disk]);
    }
    let refused = |code: &str| {
        assert!(daemon.refused(&["disk", "attach", &by_customer]).contains(code), "attach: {code}");
        assert_eq!(daemon.events("AttachDisk")[0]["errorCode"], code);
        let parameters = [("SizeBytes", "1048576"), ("KMSKeyId", id)];
        let socket = daemon.api_socket();
        let (status, answer) = api::call(&socket, api::OWN, "CreateLocalDisk", &parameters);
        assert_eq!((status, &answer["Code"]), (403, &json!(code)), "{answer}");
        daemon.ok(&["disk", "attach", &by_service]);
        daemon.ok(&["disk", "detach", &by_service]);
    };
    let (kms, tag) = (api::KMS, "acs:ecs:disk-encryption");
    let untag = [("KeyId", id), ("TagKeys", &*format!("[\"{tag}\"]"))];
    assert_eq!(api::call(&daemon.api_socket(), kms, "UntagResource", &untag).0, 200);
    refused("InvalidParameter.KMSKeyId.CMKUnauthorized");
    let retag = format!("[{{\"TagKey\":\"{tag}\",\"TagValue\":\"true\"}}]");
    let retag = [("KeyId", id), ("Tags", retag.as_str())];
    assert_eq!(api::call(&daemon.api_socket(), kms, "TagResource", &retag).0, 200);
    daemon.ok(&["disk", "attach", &by_customer]);
    daemon.ok(&["disk", "detach", &by_customer]);

    daemon.ok(&["role", "detach-policy", ROLE, ROLE_POLICY]);
    refused("InvalidParameter.KMSKeyId.KMSUnauthorized");
    daemon.ok(&["role", "delete", ROLE]);
    refused("InvalidParameter.KMSKeyId.KMSUnauthorized");
    daemon.ok(&["role", "create", ROLE, "--service", "rds.aliyuncs.com"]);
    daemon.ok(&["role", "attach-policy", ROLE, ROLE_POLICY]);
    refused("InvalidParameter.KMSKeyId.KMSUnauthorized");
    daemon.ok(&["role", "detach-policy", ROLE, ROLE_POLICY]);
    daemon.ok(&["role", "delete", ROLE]);
    daemon.ok(&["role", "create", ROLE, "--service", "ecs.aliyuncs.com"]);
    daemon.ok(&["role", "attach-policy", ROLE, ROLE_POLICY]);
    daemon.ok(&["disk", "attach", &by_customer]);
}

#[test]
fn the_command_line_has_every_verb() {
    let account = Account::start();
    let daemon = &account.daemon;
    let file = daemon.data_dir().join("policy.json");
    std::fs::write(
        &file,
        r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:List*","Resource":"*"}]}"#,
    )
    .unwrap();
    daemon.ok(&["policy", "create", "lister", "--document", file.to_str().unwrap()]);
    assert!(daemon.ok(&["policy", "list", "--custom"]).contains("lister"));
    assert!(daemon.ok(&["policy", "show", "lister"]).contains("kms:List*"));
    daemon.ok(&["user", "create", "ann", "--comments", "a job"]);
    assert!(daemon.ok(&["user", "list"]).contains("a job"));
    daemon.ok(&["user", "attach-policy", "ann", "lister"]);
    assert!(daemon.ok(&["user", "policies", "ann"]).contains("lister"));
    let made = daemon.cli(&["user", "create-access-key", "ann", "-o", "json"]);
    let told: Value = serde_json::from_slice(&made.stdout).unwrap();
    let (id, secret) = (told["AccessKeyId"].as_str().unwrap(), &told["AccessKeySecret"]);
    let warning = String::from_utf8(made.stderr).unwrap();
    assert!(warning.contains("this once") && !warning.contains(secret.as_str().unwrap()));
    let key = AccessKey { id: id.into(), secret: secret.as_str().unwrap().into() };
    assert_eq!(account.by(&key, (api::KMS, "ListKeys"), &[]), "ok");
    daemon.ok(&["user", "disable-access-key", "ann", "--id", id]);
    assert!(daemon.ok(&["user", "access-keys", "ann"]).contains("Inactive"));
    daemon.ok(&["user", "enable-access-key", "ann", "--id", id]);
    daemon.ok(&["user", "delete-access-key", "ann", "--id", id]);
    daemon.ok(&["user", "detach-policy", "ann", "lister"]);
    daemon.ok(&["policy", "delete", "lister"]);
    daemon.ok(&["user", "delete", "ann"]);
    assert!(daemon.refused(&["user", "show", "ann"]).contains("EntityNotExist.User"));
    assert!(daemon.ok(&["role", "show", ROLE]).contains("ecs.aliyuncs.com"));
    assert!(daemon.ok(&["role", "policies", ROLE]).contains(ROLE_POLICY));
    assert!(daemon.ok(&["role", "list"]).contains(ROLE));
}
