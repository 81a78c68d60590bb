# As much of nixpkgs' lib as nix/ uses, with its names and its semantics, but
# stricter: whatever is not here, or is used in another way, is an error.
let
  inherit (builtins) all attrNames concatMap concatStringsSep elem filter foldl' head
    intersectAttrs isAttrs isBool isFunction isInt isList isPath isString listToAttrs
    mapAttrs match tail;

  lib = rec {
    inherit (builtins) all attrNames;

    optional = condition: value: if condition then [ value ] else [ ];
    genAttrs = names: f: listToAttrs (map (name: { inherit name; value = f name; }) names);
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    filterAttrs = f: set: removeAttrs set (filter (name: !f name set.${name}) (attrNames set));
    escapeShellArg = arg: "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString arg)}'";
    makeBinPath = packages: concatStringsSep ":" (map (p: "${p}/bin") packages);

    licenses.mit = { spdxId = "MIT"; };
    platforms.linux = [ "x86_64-linux" "aarch64-linux" ];
    trivial.release = "26.11";

    # A set of files is a function of a file's name. Hidden directories have none.
    fileset = rec {
      below = dir: file:
        if builtins.pathExists dir then hasPrefix "${toString dir}/" file
        else throw "${toString dir} does not exist";
      fileFilter = wanted: dir: file: below dir file
        && wanted { name = baseNameOf file; hasExt = ext: hasSuffix ".${ext}" file; };
      difference = files: dir: file: files file && !below dir file;
      toSource = { root, fileset }:
        builtins.path {
          name = "source";
          path = root;
          filter = file: type:
            if type == "directory" then !hasPrefix "." (baseNameOf file) else fileset file;
        };
    };
    hasPrefix = prefix: s: builtins.substring 0 (builtins.stringLength prefix) s == prefix;
    hasSuffix = suffix: s:
      let start = builtins.stringLength s - builtins.stringLength suffix;
      in start >= 0 && builtins.substring start (-1) s == suffix;

    ## Modules

    mkIf = condition: content: { _type = "if"; inherit condition content; };
    mkOverride = priority: content: { _type = "override"; inherit priority content; };
    mkImageMediaOverride = mkOverride 60;
    mkForce = mkOverride 50;
    literalExpression = text: if isString text then { _type = "literalExpression"; inherit text; } else throw "literalExpression wants a string";

    # Every option has a type and a description, and a default or an example.
    mkOption = { type, description, default ? null, defaultText ? null, example ? null }@option:
      if !(option ? default || option ? example) then throw "option without default and example: ${description}"
      else { _type = "option"; } // option;

    types = rec {
      type = name: check: merge: { _type = "option-type"; inherit name check merge; };
      one = name: check: type name check (loc: values:
        if all (v: v == head values) (tail values) then head values
        else throw "The option `${loc}' has conflicting definitions.");

      bool = one "boolean" isBool;
      str = one "string" isString;
      path = one "absolute path" (v: isPath v || isStringLike v && hasPrefix "/" (toString v));
      package = one "package" isDerivation;
      unspecified = one "unspecified" (_: true);
      enum = values: one "one of ${builtins.toJSON values}" (v: elem v values);
      strMatching = pattern: one "string matching ${pattern}" (v: isString v && match pattern v != null);
      ints.unsigned = one "unsigned integer" (v: isInt v && v >= 0);
      ints.between = low: high: one "integer between ${toString low} and ${toString high}" (v: isInt v && v >= low && v <= high);
      nullOr = t: type "null or ${t.name}" (v: v == null || t.check v) (loc: values:
        if all (v: v == null) values then null else t.merge loc values);
      listOf = t: type "list of ${t.name}" (v: isList v) (loc: values:
        map (v: mergeValues loc t [ v ]) (builtins.concatLists values));
      attrsOf = t: type "attribute set of ${t.name}" isAttrs (loc: values:
        genAttrs (attrNames (foldl' (a: b: a // b) { } values)) (name:
          mergeValues "${loc}.${name}" t (concatMap (v: optional (v ? ${name}) v.${name}) values)))
        // { nested = t.nested or { }; };
      submodule = module: type "submodule" isAttrs (loc: values:
        (evalModules { prefix = loc; modules = [ module ] ++ map (config: { inherit config; }) values; }).config)
        // { nested = module.options; };
    };
    isStringLike = v: isString v || isAttrs v && v ? outPath;
    isDerivation = v: isAttrs v && v.type or null == "derivation";

    # The definitions in a value: conditions are resolved, priorities kept.
    definitions = value:
      if value._type or null == "if" then (if value.condition then definitions value.content else [ ])
      else if value._type or null == "override" then map (d: d // { inherit (value) priority; }) (definitions value.content)
      else [ { priority = 100; inherit value; } ];

    # The value of all definitions that have the strongest priority.
    mergeValues = loc: t: values:
      let
        defs = concatMap definitions values;
        strongest = foldl' (p: d: if d.priority < p then d.priority else p) 9999 defs;
        chosen = map (d: d.value) (filter (d: d.priority == strongest) defs);
        bad = filter (v: !t.check v) chosen;
      in
      if bad != [ ] then throw "A definition for option `${loc}' is not of type `${t.name}'."
      else t.merge loc chosen;

    isOption = v: v._type or null == "option";

    # Evaluates modules: paths, functions or sets. `prefix` is for messages.
    evalModules = { modules, specialArgs ? { }, prefix ? "" }:
      let
        args = { inherit lib config; options = declared; } // specialArgs;
        load = module:
          let m = if isPath module then import module else module;
          in if isFunction m then m (intersectAttrs (builtins.functionArgs m) args) else m;
        normal = m:
          let unknown = removeAttrs m [ "imports" "options" "config" ];
          in
          if !(m ? options || m ? config) then { imports = m.imports or [ ]; options = { }; config = removeAttrs m [ "imports" ]; }
          else if unknown != { } then throw "Module has unsupported attributes ${toString (attrNames unknown)}"
          else { imports = [ ]; options = { }; config = { }; } // m;
        collect = module: let m = normal (load module); in [ m ] ++ concatMap collect m.imports;
        collected = concatMap collect modules;

        join = loc: a: b:
          if isOption a || isOption b then throw "The option `${loc}' is already declared."
          else a // mapAttrs (name: v: if a ? ${name} then join "${loc}.${name}" a.${name} v else v) b;
        declared = foldl' (join prefix) { } (map (m: m.options) collected);

        # Sets of definitions, with conditions and priorities moved into them: the
        # names must not depend on the values.
        contents = concatMap (value:
          if elem (value._type or null) [ "if" "override" ]
          then map (mapAttrs (_: content: value // { inherit content; })) (contents [ value.content ])
          else [ value ]);
        select = name: values: concatMap (v: optional (v ? ${name}) v.${name}) values;
        at = loc: name: if loc == "" then name else "${loc}.${name}";

        evaluate = loc: options: values: mapAttrs (name: option:
          let
            here = at loc name;
            defs = select name (contents values);
            defaults = optional (option ? default) (mkOverride 1500 option.default);
          in
          if !isOption option then evaluate here option defs
          else if defs ++ defaults == [ ] then throw "The option `${here}' was accessed but has no value defined."
          else mergeValues here option.type (defs ++ defaults)) options;
        config = evaluate prefix declared (map (m: m.config) collected);

        # The names of definitions without an option.
        strangers = loc: options: values: concatMap
          (v: concatMap (name:
            if !(options ? ${name}) then [ (at loc name) ]
            else if isOption options.${name} then [ ]
            else strangers (at loc name) options.${name} [ v.${name} ]) (attrNames v))
          (contents values);
        unknown = strangers prefix declared (map (m: m.config) collected);
      in
      {
        options = declared;
        config = if unknown == [ ] then config else throw "The option `${head unknown}' does not exist.";
      };
  };
in
lib
