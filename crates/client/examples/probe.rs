use client::*;
use serde::Deserialize;
#[derive(Debug, Deserialize)]
struct Cm {
    metadata: ObjectMeta,
    #[serde(default)]
    data: std::collections::BTreeMap<String, String>,
}
views!(Cm);
#[tokio::main]
async fn main() {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .init();
    let c = Client::from_kubeconfig(std::env::args().nth(1).unwrap(), Options::default())
        .await
        .unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let inf = Informers::new(c.clone(), stop.clone());
    let cms = inf.all::<Cm>(&resource::CONFIG_MAPS);
    cms.on_change(|ch| {
        println!(
            "{:?} {}/{}",
            std::mem::discriminant(&ch),
            ch.object().metadata.namespace,
            ch.object().metadata.name
        )
    });
    let nodes = inf.get::<view::MetaView>(&resource::NODES, Selector::metadata());
    let t = std::time::Instant::now();
    inf.synced().await;
    println!(
        "synced {:?} {} {}",
        t.elapsed(),
        cms.store().len(),
        nodes.store().len()
    );
    let api = c.namespaced(&resource::CONFIG_MAPS, "default");
    let _ = api.delete("x", &DeleteOptions::default()).await;
    let x: Cm = api.create(&serde_json::json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"b"}})).await.unwrap();
    println!("{x:?}");
    let e = api
        .create::<Cm, _>(
            &serde_json::json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}),
        )
        .await
        .unwrap_err();
    assert!(e.is_already_exists(), "{e}");
    println!("{e}");
    let x: Cm = api
        .patch("x", &Patch::Merge(serde_json::json!({"data":{"c":"d"}})))
        .await
        .unwrap();
    println!("{:?}", x.data);
    let e = api
        .patch::<Cm>(
            "x",
            &Patch::Merge(serde_json::json!({"metadata":{"resourceVersion":"1"},"data":{"c":"e"}})),
        )
        .await
        .unwrap_err();
    assert!(e.is_conflict(), "{e}");
    let e = api.get::<Cm>("nope").await.unwrap_err();
    assert!(e.is_not_found());
    println!("{e}");
    let (rec, w) = Recorder::new(c.clone(), events::Format::Core, "probe", "", stop.clone());
    tokio::spawn(w);
    let (rec2, w) = Recorder::new(
        c.clone(),
        events::Format::Events,
        "probe",
        "probe-host",
        stop.clone(),
    );
    tokio::spawn(w);
    for _ in 0..3 {
        rec.event(
            ObjectReference::of(&resource::CONFIG_MAPS, &x),
            EventType::Normal,
            "Tested",
            "hello",
        );
        rec2.action(
            ObjectReference::of(&resource::CONFIG_MAPS, &x),
            None,
            EventType::Normal,
            "Tested2",
            "Testing",
            "hello",
        );
    }
    api.delete("x", &DeleteOptions::uid(x.metadata.uid.clone()))
        .await
        .unwrap();
    let cfg =
        leader::LeaderConfig::new("kube-system", "probe", format!("me-{}", std::process::id()));
    let s2 = stop.clone();
    let r = leader::lead(c.clone(), cfg, rec, stop.clone(), |t| async move {
        println!("leading");
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        s2.cancel();
        t.cancelled().await;
        println!("stopped");
    })
    .await;
    println!("{r:?}");
}
